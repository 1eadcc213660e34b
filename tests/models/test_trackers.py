"""What the real Weights & Biases and MLflow hold of a training, both offline.

Their dependencies and Triton's exclude each other, so they lie in a folder of their own, which processes of their
own have on their path.
"""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from troika.errors import ParameterError, TrainingError
from troika.models.trackers import TrackedRun, check_tracker
from troika.models.training_log import TrainingLog

PACKAGES = ("wandb==0.31.0", "mlflow-skinny==3.17.2")
HERE = Path(__file__).parent
RUN_STATUS = {"FINISHED": 3, "FAILED": 4, "KILLED": 5}  # in MLflow's files


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trackers")
    uv = Path(sys.executable).parent / "uv"
    command = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--target", folder, *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "CI" not in os.environ:
        pytest.skip(f"{' and '.join(PACKAGES)} cannot be installed here: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    return folder


class Tracked:
    """Trainings of one folder, with these packages and what they write beside it."""

    def __init__(self, packages: Path, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(packages), str(HERE), str(HERE.parent), str(HERE.parents[1])]),
            "PYTHONDONTWRITEBYTECODE": "",  # each process would compile these packages anew
            "WANDB_MODE": "offline",
            **{f"WANDB_{kind}": str(folder) for kind in ("DIR", "CONFIG_DIR", "CACHE_DIR", "DATA_DIR")},
            "MLFLOW_TRACKING_URI": f"file:{folder}/mlflow",
            "MLFLOW_ALLOW_FILE_STORE": "true",
        }

    def train(self, tracker: str, end: str, *steps: int, **environment: str) -> "subprocess.CompletedProcess[str]":
        return self.python(str(HERE / "tracked_training.py"), tracker, str(self.folder / "log"), end,
                           *map(str, steps), **environment)  # fmt: skip

    def python(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *arguments], env=self.environment | environment, cwd=self.folder,
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def lines(self, code: str) -> list[Any]:
        """What a process prints that has the packages: JSON, one value a line."""
        done = self.python("-c", code, str(self.folder))
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def tracked(packages: Path, tmp_path: Path) -> Tracked:
    return Tracked(packages, tmp_path)


def wandb_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def wandb_records(path: Path) -> Iterator[bytes]:
    """The records of W&B's file: seven bytes, then LevelDB's log format."""
    content, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole one, or the last part of one
            yield record
            record = b""


READ_WANDB = """
import json, sys
from pathlib import Path
from test_trackers import wandb_files, wandb_records
from wandb.proto.wandb_internal_pb2 import Record
for path in wandb_files(Path(sys.argv[1])):
    run = {"steps": [], "pictures": 0, "preempting": False, "exit": None}
    for content in wandb_records(path):
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run["id"], run["title"] = record.run.run_id, record.run.display_name
            run["config"] = {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            values = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            run["steps"].append([record.history.step.num, json.loads(values["generator_loss"])])
            run["pictures"] += any(name.startswith("samples") for name in values)
        elif kind == "preempting":
            run["preempting"] = True
        elif kind == "exit":
            run["exit"] = record.exit.exit_code
    print(json.dumps(run))
"""


def mlflow_run(folder: Path) -> dict[str, Any]:
    """The only run in MLflow's store of files."""
    (meta,) = folder.glob("mlflow/0/*/meta.yaml")
    known = yaml.safe_load(meta.read_text())
    metric = (meta.parent / "metrics" / "generator_loss").read_text().splitlines()
    return {
        "title": known["run_name"],
        "status": known["status"],
        "params": {path.name: path.read_text() for path in (meta.parent / "params").iterdir()},
        "steps": [(int(step), float(value)) for _, value, step in map(str.split, metric)],
        "pictures": [path.name for path in (meta.parent / "artifacts").rglob("*.png")],
    }


def test_wandb_gets_settings_figures_pictures_and_an_end_and_goes_on_in_its_run(tracked: Tracked) -> None:
    assert "asked to end" in tracked.train("wandb", "pause", 50, 100).stderr
    assert "not a number" in tracked.train("wandb", "fail", 100, 150, 200, 250).stderr
    assert tracked.train("wandb", "finish", 300).returncode == 0
    runs = tracked.lines(READ_WANDB)
    assert {run["id"] for run in runs} == {runs[0]["id"]}
    assert [(run["preempting"], run["exit"]) for run in runs] == [(True, 1), (False, 1), (False, 0)]
    assert runs[0]["title"] == "r3gan"
    assert runs[0]["config"]["steps"] == 300
    assert runs[0]["config"]["settings"]["network"] == {"channels": 32}
    assert [run["steps"] for run in runs] == [
        [[50, 50.5], [100, 100.5]],
        [[150, 150.5], [200, 200.5], [250, 250.5]],
        [[300, 300.5]],
    ]
    assert [run["pictures"] for run in runs] == [1, 1, 1]

    # Another tracker gets a run of its own, from where the training goes on.
    tracked.train("mlflow", "finish", 300)
    assert mlflow_run(tracked.folder)["steps"] == [(300, 300.5)]
    remembered = json.loads((tracked.folder / "log" / "tracker.json").read_text())
    assert remembered["wandb"] == {"run": runs[0]["id"], "step": 300}
    assert remembered["mlflow"]["step"] == 300


def test_mlflow_gets_settings_figures_pictures_and_an_end_and_goes_on_in_its_run(tracked: Tracked) -> None:
    ended = []
    for end, *steps in [("pause", 50, 100), ("fail", 100, 150, 200), ("finish", 250)]:
        tracked.train("mlflow", str(end), *map(int, steps))
        ended.append(mlflow_run(tracked.folder)["status"])
    assert ended == [RUN_STATUS[name] for name in ("KILLED", "FAILED", "FINISHED")]
    run = mlflow_run(tracked.folder)
    assert run["title"] == "r3gan"
    assert run["params"] == {"steps": "300", "settings.loss": "relativistic", "settings.network.channels": "32"}
    assert run["steps"] == [(step, step + 0.5) for step in (50, 100, 150, 200, 250)]
    assert sorted(run["pictures"]) == ["step_000000100.png", "step_000000200.png"]


def test_a_tracker_that_does_not_take_the_run_ends_the_training_before_it_begins(tracked: Tracked) -> None:
    done = tracked.train("mlflow", "finish", 50, MLFLOW_TRACKING_URI="nowhere://x")
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert "TrainingError: tracker: mlflow does not take the run: " in said
    assert "nowhere" in said
    assert said.endswith("mend its settings, or say none")
    assert not (tracked.folder / "log" / "stats.jsonl").exists()


def test_a_tracker_that_fails_is_told_how_the_training_ended_and_later_what_it_has_missed(
    tracked: Tracked,
) -> None:
    done = tracked.train("mlflow", "lose", 50, 100)
    assert done.stderr.splitlines()[-1] == "a loss is not a number"
    assert done.stderr.count("mlflow has failed, and is told no more: ") == 1
    run = mlflow_run(tracked.folder)
    assert (run["status"], run["steps"]) == (RUN_STATUS["FAILED"], [(50, 50.5)])
    lines = (tracked.folder / "log" / "stats.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [50, 100, 101]

    tracked.train("mlflow", "finish", 50, 100, 150)  # goes on from a state that is older still
    run = mlflow_run(tracked.folder)
    assert (run["status"], run["steps"]) == (RUN_STATUS["FINISHED"], [(50, 50.5), (100, 100.5), (150, 150.5)])


def test_a_training_does_not_wait_for_a_server_that_never_answers(tracked: Tracked) -> None:
    done = tracked.train("mlflow", "hang", 50, 100)
    assert done.stderr.splitlines()[-2:] == [
        "mlflow does not answer; what it has not been told stays untold",
        "asked to end",
    ]
    lines = (tracked.folder / "log" / "stats.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [50, 100]


def test_a_tracker_that_is_not_there_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(ParameterError, match="tracker: wandb is not installed; pip install wandb, or say none"):
        TrainingLog(tmp_path / "log", "r3gan", {}, "wandb")
    with pytest.raises(ParameterError, match="there is no 'neptune'; available: none, wandb, mlflow"):
        check_tracker("neptune")
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("remembered", "advice"),
    [
        *[
            (text, "mend its settings, or say none")
            for text in ("", "[]", '{"wandb": 3}', '{"wandb": {"run": "x"}}')
        ],
        (
            '{"wandb": {"run": "x", "step": 50}}',
            "or remove .*tracker.json to begin another run there, or say none",
        ),
    ],
)
def test_what_was_remembered_of_a_run_that_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: str, advice: str
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    (tmp_path / "tracker.json").write_text(remembered)
    with pytest.raises(TrainingError, match=f"tracker: wandb does not take the run: .*; .*{advice}"):
        TrackedRun(tmp_path, "wandb", "r3gan", {})
    assert (tmp_path / "tracker.json").read_text() == remembered


def test_an_interrupted_close_of_one_tracker_closes_the_others(tmp_path: Path) -> None:
    closed = []

    class Interrupted:
        def log(self, *_: object) -> None:
            pass

        def close(self, end: str) -> None:
            closed.append(end)
            if len(closed) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), TrainingLog(tmp_path, "r3gan", {}) as log:
        log._trackers += [Interrupted(), Interrupted(), Interrupted()]
    assert closed == ["finished"] * 3
