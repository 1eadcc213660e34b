"""A real Prometheus, with the rules that a cluster gets, looks at a real Triton and a real probe."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from names import OUTSIDE, expressions, metrics_of, records
from promtool import RULES, program
from waiting import PATIENCE, wait_until
from worlds import World, worse

from troika.monitor import Prometheus, write_expected, write_plain_rules
from troika.serving.triton import TritonServer


class Model:
    """The one Triton that runs; another may be put in its place, on the same ports."""

    def __init__(self, folder: Path) -> None:
        self._cleanup = ExitStack()
        self.state = self._cleanup.enter_context(TritonServer(folder, exit_seconds=0)).state

    def stop(self) -> None:
        self._cleanup.close()

    def serve(self, folder: Path) -> None:
        self.stop()
        old = self.state
        ports = {"http_port": old.http_port, "grpc_port": old.grpc_port, "metrics_port": old.metrics_port}
        self._cleanup.enter_context(TritonServer(folder, exit_seconds=0, **ports))


@pytest.fixture(scope="module")
def model(world: World) -> Iterator[Model]:
    running = Model(world.bundle.folder)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def probe(world: World, model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The probe as a process of its own; where its metrics are."""
    port_file = tmp_path_factory.mktemp("probe") / "port"
    process = subprocess.Popen(
        [
            sys.executable, "-m", "troika.serving.quality_probe",
            "--service", f"127.0.0.1:{model.state.grpc_port}", "--environment", "test",
            "--release-remote", str(world.remote), "--images", "100", "--interval", "1",
            "--port", "0", "--address", "127.0.0.1", "--port-file", str(port_file),
        ]
    )  # fmt: skip
    try:
        wait_until(lambda: process.poll() is not None or (port_file.exists() and port_file.read_text()))
        assert process.poll() is None
        yield f"127.0.0.1:{port_file.read_text().strip()}"
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0


@pytest.fixture(scope="module")
def prometheus(model: Model, probe: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """With the very rules, only that none waits before it fires, and records are made at once."""
    folder = tmp_path_factory.mktemp("prometheus")
    rules = [*write_plain_rules(RULES, folder / "rules"), write_expected(folder / "rules" / "expected.yaml")]
    for path in rules:
        impatient = re.sub(r"(?m)^ *for: \w+\n", "", path.read_text())
        path.write_text(re.sub(r"(?m)^( *)interval: \w+\n", r"\1interval: 1s\n", impatient))
    targets = {"triton": f"127.0.0.1:{model.state.metrics_port}", "troika-probe": probe}
    program("prometheus")
    with Prometheus(folder, rules, targets, interval="1s") as running:
        yield running


def firing(prometheus: Prometheus) -> set[str]:
    return {alert["labels"]["alertname"] for alert in prometheus.firing()}


def measured(prometheus: Prometheus, digest: str) -> bool:
    return bool(prometheus.ask("query", query=f'troika_probe_quality{{digest="{digest}"}}')["result"])


def test_every_metric_that_is_named_exists(prometheus: Prometheus, world: World) -> None:
    """In a real Triton and a real probe, or it is on the list of what needs a cluster, and nothing else is."""
    wait_until(lambda: measured(prometheus, world.bundle.digest))
    wait_until(lambda: records() <= set(prometheus.ask("label/__name__/values")))
    there = set(prometheus.ask("label/__name__/values"))
    named = {metric: who for who, expression in expressions() for metric in metrics_of(expression)}
    assert len(named) > 40
    missing = {metric: who for metric, who in named.items() if metric not in there}
    assert {metric: who for metric, who in missing.items() if metric not in OUTSIDE} == {}
    assert set(OUTSIDE) == set(missing)


def test_prometheus_takes_every_expression(prometheus: Prometheus) -> None:
    asked = 0
    for _, expression in expressions():
        plain = re.sub(r"\{\{.*?\}\}", "x", expression).replace("$__rate_interval", "5m")
        prometheus.ask("query", query=re.sub(r"\$\w+", ".*", plain))
        asked += 1
    assert asked > 60


def test_a_worse_model_in_place_of_the_released_one_raises_the_alert(
    prometheus: Prometheus, model: Model, world: World, tmp_path: Path
) -> None:
    alerts = {"QualityBelowGate", "ReleaseGitDrift", "ServedModelUnknown"}
    wait_until(lambda: measured(prometheus, world.bundle.digest))
    watched_until = time.monotonic() + 5
    while time.monotonic() < watched_until:
        assert not firing(prometheus) & (alerts | {"QualityDrift", "GoldenAnswersDiffer", "PodsDisagree"})
        time.sleep(0.5)
    bad = worse(tmp_path / "worse")

    model.serve(bad.folder)
    wait_until(lambda: alerts <= firing(prometheus))
    (worst,) = [
        alert
        for alert in prometheus.firing()
        if alert["labels"]["alertname"] == "QualityBelowGate" and alert["labels"]["figure"] == "frechet_distance"
    ]
    assert worst["labels"]["digest"] == bad.digest
    assert worst["labels"]["severity"] == "critical"
    assert worst["annotations"]["runbook"] == "docs/runbooks/QualityBelowGate.md"
    assert "{{" not in " ".join(worst["annotations"].values())
    model.serve(world.bundle.folder)
    wait_until(lambda: not firing(prometheus) & {"QualityBelowGate", "ReleaseGitDrift"})


def test_silence_of_the_server_is_seen_from_the_client_side(
    prometheus: Prometheus, model: Model, world: World
) -> None:
    model.stop()
    wait_until(lambda: {"TritonAbsent", "TritonDown", "AvailabilityBudgetBurn"} <= firing(prometheus))
    model.serve(world.bundle.folder)
    wait_until(lambda: "TritonAbsent" not in firing(prometheus))
