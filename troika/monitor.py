"""A real Prometheus on this machine, with the rules that a cluster gets, beside the local Triton and the probe.

The rules are written once, as objects of the Prometheus Operator; a plain Prometheus takes what stands in their
`spec`. Does not measure anything itself: the probe does (troika/serving/probe.py).
"""

import http.client
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import yaml
from prometheus_client import CollectorRegistry, start_http_server

from troika.errors import ParameterError, ServerError
from troika.folders import write_atomic
from troika.serving.probe import QualityProbe, Target
from troika.serving.probe_metrics import ProbeMetrics
from troika.serving.promise import GitPromise
from troika.serving.quality_probe import watch
from troika.serving.triton import ServerState, read_state
from troika.serving.triton_process import HOST, choose_ports, last_words, stop

_START_SECONDS = 30.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks this machine, to which no proxy leads."""


def write_plain_rules(source: Path, target: Path) -> list[Path]:
    """Write the rules of every PrometheusRule in the folder `source` as a file that a plain Prometheus reads.

    Returns:
        the files in the folder `target`, named as those in `source`.

    Raises:
        ParameterError: there is none, or a file is not a PrometheusRule.
    """
    written = []
    for path in sorted(source.glob("*.yaml")):
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
            groups = {"groups": found["spec"]["groups"]} if found["kind"] == "PrometheusRule" else None
        except (yaml.YAMLError, TypeError, KeyError) as error:
            raise ParameterError(f"{path} is not a PrometheusRule: {error!r}") from None
        if groups is not None:
            written.append(target / path.name)
            write_atomic(written[-1], yaml.safe_dump(groups, sort_keys=False, width=10_000))
    if not written:
        raise ParameterError(f"{source} holds no PrometheusRule; give the folder of the rules with --rules")
    return written


def write_expected(path: Path) -> Path:
    """Write the rule that says that a model should be served here, and return its path.

    Alerts on absence start from its series; in a cluster each namespace that serves has one with its name.
    """
    rule = {"record": "troika:serving:expected", "expr": "vector(1)"}
    write_atomic(path, yaml.safe_dump({"groups": [{"name": "troika-expected", "rules": [rule]}]}, sort_keys=False))
    return path


class Prometheus:
    """A Prometheus process, ready inside a `with` block; what it has seen stays in its folder.

    Args:
        folder: for its configuration, targets, log and data.
        rules: plain rule files.
        targets: job -> host:port of its /metrics.
        port: 0 takes a free one; open to this machine only.
        interval: from one look at the targets, and at the rules, to the next: such as 5s.
        program: another `prometheus` than the one on PATH.
    """

    def __init__(
        self,
        folder: Path,
        rules: Iterable[Path],
        targets: Mapping[str, str],
        *,
        port: int = 0,
        interval: str = "5s",
        program: Path | None = None,
    ) -> None:
        found = shutil.which(program or "prometheus")
        if found is None:
            raise ServerError(
                f"{program or 'prometheus'} is not installed: on Debian `apt-get install prometheus` (its "
                "own service then holds port 9090; `systemctl disable --now prometheus` ends that), or give a "
                "program with --prometheus"
            )
        self._program, self._folder = found, folder
        self._rules, self._interval = [str(path.absolute()) for path in rules], interval
        self._port = choose_ports((port, 0, 0))[0]
        self._cleanup = ExitStack()
        self._targets = dict(targets)

    @property
    def url(self) -> str:
        """Its page."""
        return f"http://{HOST}:{self._port}"

    def __enter__(self) -> Self:
        """Start it.

        Raises:
            ServerError: it has ended by itself, in its own words, or is not ready in time.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for job in self._targets:
            self.point(job, self._targets[job])
        configuration = {
            "global": {
                "scrape_interval": self._interval,
                "scrape_timeout": self._interval,
                "evaluation_interval": self._interval,
            },
            "rule_files": self._rules,
            "scrape_configs": [
                {"job_name": job, "file_sd_configs": [{"files": [str(self._file(job))], "refresh_interval": "5s"}]}
                for job in self._targets
            ],
        }
        write_atomic(self._folder / "prometheus.yml", yaml.safe_dump(configuration, sort_keys=False))
        log = self._folder / "prometheus.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    self._program,
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    "--storage.tsdb.retention.time=15d",
                    f"--web.listen-address={HOST}:{self._port}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._cleanup.callback(stop, process, 10.0)
        started = time.monotonic()
        while not self._ready():
            if process.poll() is not None or time.monotonic() - started > _START_SECONDS:
                self._cleanup.close()
                raise ServerError(f"Prometheus does not start:\n{last_words(log)}\nWhole log: {log}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def point(self, job: str, target: str) -> None:
        """Where a job's metrics are from now on."""
        self._targets[job] = target
        write_atomic(self._file(job), json.dumps([{"targets": [target]}]) + "\n")

    def ask(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer of its HTTP interface, such as that of `query` to a parameter `query`.

        Raises:
            ServerError: it does not answer, or refuses, in its words.
        """
        try:
            url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
            with _DIRECT.open(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ServerError(f"Prometheus refuses {parameters}: {error.read().decode()}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ServerError(f"Prometheus does not answer at {self.url}: {error}") from None

    def firing(self) -> list[dict[str, Any]]:
        """Alerts that fire now: each with `labels` and `annotations`."""
        return [alert for alert in self.ask("alerts")["alerts"] if alert["state"] == "firing"]

    def _file(self, job: str) -> Path:
        return (self._folder / f"{job}.json").absolute()

    def _ready(self) -> bool:
        try:
            with _DIRECT.open(f"{self.url}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except (OSError, http.client.HTTPException):
            return False


def monitor(
    state_file: Path,
    remote: str,
    environment: str,
    rules: Path,
    folder: Path,
    say: Callable[[str], None],
    stopped: Event,
    *,
    port: int = 0,
    interval: float = 5.0,
    images: int = 32,
    program: Path | None = None,
) -> None:
    """Start probe and Prometheus beside a server of `troika serve` until `stopped`, and say which alerts fire.

    Args:
        state_file: of the server; one that is started again is followed to its new ports.
        remote: the Git remote of releases.
        environment: such as local.
        rules: the folder of the PrometheusRules.
        folder: for Prometheus's files.
        say: is given each line.
        stopped: ends it.
        port: of Prometheus; 0 takes a free one.
        interval: seconds between rounds of the probe, and between looks of Prometheus.
        images: fresh images in each round of the probe.
        program: another `prometheus`.

    Raises:
        ServerError: no server runs, or Prometheus does not start.
    """
    state = read_state(state_file)
    if state is None:
        raise ServerError("no server is running here: start `make serve` in another terminal first")
    registry = CollectorRegistry()
    probe = QualityProbe(
        _target(state), GitPromise(remote, environment), ProbeMetrics(registry), images, release_seconds=10.0
    )
    plain = [*write_plain_rules(rules, folder / "rules"), write_expected(folder / "rules" / "expected.yaml")]
    with ExitStack() as cleanup:
        metrics, thread = start_http_server(0, HOST, registry)
        cleanup.callback(thread.join)
        cleanup.callback(metrics.server_close)
        cleanup.callback(metrics.shutdown)
        targets = {"triton": f"{HOST}:{state.metrics_port}", "troika-probe": f"{HOST}:{metrics.server_port}"}
        prometheus = cleanup.enter_context(
            Prometheus(folder, plain, targets, port=port, interval=f"{max(1, round(interval))}s", program=program)
        )
        rounds = Thread(target=watch, args=(probe, interval, stopped))
        rounds.start()
        cleanup.callback(rounds.join)
        cleanup.callback(stopped.set)
        say(f"Prometheus  {prometheus.url}/alerts   {prometheus.url}/graph?g0.expr=troika_probe_quality")
        say(f"probe       http://{HOST}:{metrics.server_port}/metrics")
        say("watching; alerts are told here. Ctrl-C stops it")
        known: set[str] = set()
        while not stopped.wait(interval):
            if (found := read_state(state_file)) and found != state:
                state = found
                say(f"follows the server to its new ports: {state.model} {state.digest}")
                probe.target = _target(state)
                prometheus.point("triton", f"{HOST}:{state.metrics_port}")
            firing = {_words(alert) for alert in prometheus.firing()}
            for words in sorted(firing - known):
                say(f"FIRING    {words}")
            for words in sorted(known - firing):
                say(f"resolved  {words}")
            known = firing


def _target(state: ServerState) -> Target:
    address = f"{HOST}:{state.grpc_port}"
    return Target(address, address)


def _words(alert: Mapping[str, Any]) -> str:
    labels, annotations = alert["labels"], alert["annotations"]
    return f"{labels['alertname']} ({labels['severity']}): {annotations['summary']}. See {annotations['runbook']}"
