"""`troika sweep --submit`: what is started, and the table of trials that is printed; Kubeflow is a fake."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from kubeflow_commands import SUBMIT, troika
from pipelines_fake import FakeKubeflow

from pipelines.workloads import Workloads
from troika.quality.comparison import comparison_lines

WORKFLOW = "troika-sweep-abcde"
TRIALS = [
    {"point": {"train": {"seed": 0}}, "decision": "reject", "metrics": {"frechet_distance": 0.25}},
    {"point": {"train": {"seed": 1.0}}, "decision": "promote", "metrics": {"frechet_distance": 0.5}},
]


def node(name: str) -> str:
    value = 0x811C9DC5
    for byte in f"{WORKFLOW}.{name}".encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return f"{WORKFLOW}-{value}"


def finished() -> dict[str, Any]:
    """A run of which `compare` ran, with the fields of recorded runs."""
    shown = {
        WORKFLOW: "root",
        "root": "root.compare",
        "compare": "root.compare.executor",
        "executor": "root.compare.executor(0)",
        "executor(0)": None,
    }
    tasks = [
        {
            "display_name": name,
            "state": "SUCCEEDED",
            **({"child_tasks": [{"pod_name": node(child)}]} if child else {}),
        }
        for name, child in shown.items()
    ]
    return {"state": "SUCCEEDED", "run_details": {"task_details": tasks}}


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "algorithm": "grid",
                "objective": {"metric": "frechet_distance", "goal": "minimize"},
                "parallel": 1,
                "parameters": {"train.seed": {"type": "categorical", "values": [0, 1]}},
            }
        )
    )
    return path


def sweep(space: Path, *more: str) -> tuple[int, str]:
    out = ("--out", str(space.with_name("sweep-package.yaml")))
    return troika("sweep", str(space), *SUBMIT[:2], *SUBMIT[-4:], *out, *more)


def test_a_sweep_is_started_followed_and_compared(
    fake: FakeKubeflow, space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.plays = [finished()]
    log = ["I1128 launcher", *comparison_lines(TRIALS, 1, "frechet_distance"), "done"]
    asked = []

    def read(_: Workloads, workflow: str, pod: str) -> str:
        asked.append((workflow, pod))
        return "\n".join(log)

    monkeypatch.setattr(Workloads, "pod_log", read)
    status, output = sweep(space, "--submit", "--host", fake.url, *SUBMIT[2:8])
    assert status == 0, output
    (run,) = fake.runs.values()
    (pipeline,) = fake.pipelines.values()
    assert (pipeline["name"], pipeline["namespace"]) == ("troika-sweep", "kubeflow")
    (version,) = fake.versions.values()
    assert version["name"].startswith("troika-sweep-")
    assert run["runtime_config"]["parameters"]["environment"] == "staging"
    assert asked == [(WORKFLOW, node("root.compare.executor(0)"))]
    lines = output.splitlines()
    assert "| trial | train.seed\n| 0     | 0\n| 1     | 1\n" in output
    assert lines[-4:] == [
        "| 0     | 0          | reject   | 0.25",
        "| 1     | 1          | promote  | 0.5",
        "winner: trial 1: train.seed=1",
        "succeeded",
    ]
    assert "launcher" not in output


def test_a_log_that_cannot_be_read_is_named(fake: FakeKubeflow, space: Path) -> None:
    fake.plays = [finished()]
    status, output = sweep(space, "--submit", "--host", fake.url, *SUBMIT[2:8])
    assert status == 0
    assert "kubectl -n kubeflow logs -c main" in output
    assert node("root.compare.executor(0)").rpartition("-")[2] in output


def test_submit_says_what_it_needs(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("TROIKA_KUBEFLOW", "TROIKA_STORE", "TROIKA_RELEASE_REMOTE", "TROIKA_ENVIRONMENT"):
        monkeypatch.delenv(variable, raising=False)
    status, output = sweep(space, "--submit", "--store", "s3://models")
    assert (status, "--submit needs --host, --release-remote, --to, too" in output) == (1, True)
    assert not space.with_name("sweep-package.yaml").exists()


def test_without_submit_it_is_compiled_only(space: Path) -> None:
    status, output = sweep(space)
    assert status == 0, output
    assert "2 trials" in output
