"""Training leaves a model with its lineage and a whole history, also when it is killed or started twice."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from filelock import FileLock
from quick import REPOSITORY
from safetensors import safe_open
from safetensors.numpy import load_file
from tiny_steps import Paths, run_quietly, tiny_params, write_params

from components.step import PAUSED
from components.train import _progress_bar, _show, train
from troika.datasets.contract import Dataset
from troika.datasets.dvc_hash import dvc_hash
from troika.errors import DatasetError, DivergedError, ParameterError, TrainingError, TrainingPausedError
from troika.lineage import code_commit, package_versions
from troika.models.contract import Progress
from troika.models.training_log import TrainingLog


def weights(checkpoint: Path) -> bytes:
    return (checkpoint / "model" / "generator.safetensors").read_bytes()


def steps_of(history: Path) -> list[int]:
    return [json.loads(line)["step"] for line in history.read_text().splitlines()]


def test_a_checkpoint_says_what_it_was_made_from_and_by(made: Paths) -> None:
    lineage = json.loads((made.checkpoint / "lineage.json").read_text())
    info = Dataset.open(made.dataset).info
    assert lineage["dataset"] == {
        "name": "digits",
        "source": "scikit-learn load_digits",
        "origin": {"kind": "digits"},
        "content_hash": info.content_hash,
        "dvc_hash": dvc_hash(made.dataset),
        "counts": info.counts,
    }
    assert lineage["train"].pop("settings")["network"]["kind"] == "convolutional"
    assert lineage["train"] == {
        "family": "gan", "framework": "pytorch", "preset": "r3gan", "steps": 60, "batch_size": 16, "seed": 0,
        "ticks": 12,
    }  # fmt: skip
    assert lineage["code_commit"] == code_commit()
    assert lineage["packages"] == package_versions()
    assert lineage["threads"] == 1
    assert set(lineage) == {"dataset", "code_commit", "image", "packages", "threads", "train"}
    assert json.loads((made.checkpoint / "classes.json").read_text()) == list("0123456789")


def test_history_goes_to_the_last_step(made: Paths) -> None:
    assert steps_of(made.history) == [50, 60]
    line = json.loads(made.history.read_text().splitlines()[0])
    assert {
        "step",
        "steps",
        "images_per_second",
        "generator_loss",
        "learning_rate",
        "variety",
    } <= set(line)


def test_the_same_parameters_give_the_same_checkpoint(made: Paths, tmp_path: Path) -> None:
    train(made.dataset, tmp_path / "again", tmp_path / "history.jsonl", tiny_params("train"))
    for path in made.checkpoint.rglob("*.*"):
        assert (tmp_path / "again" / path.relative_to(made.checkpoint)).read_bytes() == path.read_bytes()
    train(made.dataset, tmp_path / "other", tmp_path / "history.jsonl", tiny_params("train", seed=1))
    assert weights(tmp_path / "other") != weights(made.checkpoint)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"family": "vae"}, "family: there is no 'vae'; available: gan"),
        ({"framework": "jax"}, "framework: gan has no 'jax'; available: "),
        ({"preset": "biggan"}, "preset: there is no 'biggan'; available: article, dcgan, r3gan"),
        ({"presets": {"r3gan": {"momentum": 0.9}}}, "momentum: unknown key; known keys: network, conditional"),
        (
            {"presets": {"r3gan": {"loss": "mean"}}},
            "loss: Input should be 'relativistic', 'non_saturating', 'hinge'",
        ),
        ({"presets": {"r3gan": {"network": {"kind": "unet"}}}}, "network: "),
        ({"batch_size": 1}, "batch_size: Input should be greater than 1 (got 1)"),
        ({"seed": 2**63}, f"seed: Input should be less than {2**63}"),
        ({"checkpoint_seconds": 0}, "checkpoint_seconds: Input should be greater than 0"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_exists(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match="train is not valid") as caught:
        tiny_params("train", **changes)
    assert words in str(caught.value)


def test_a_shape_that_no_network_makes_is_named(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 9, 5), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.zeros(60, np.int64))
    paths = ("--dataset", tmp_path / "d", "--report", tmp_path / "r", "--refused", tmp_path / "x")
    params = ("--params", write_params(tmp_path))
    source = ("--set", "source=npz", "--set", f"path={tmp_path / 'images.npz'}")
    assert run_quietly("prepare_data", *paths, *params, *source)[0] == 0
    outputs = ("--checkpoint", tmp_path / "c", "--history", tmp_path / "h", "--state", tmp_path / "state")
    code, text = run_quietly("train", "--dataset", tmp_path / "d", *outputs, *params)
    assert code == 1
    assert "error: shape: " in text
    assert "8, 14, 16, 28, 32" in text
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_a_dry_run_says_what_would_be_trained_and_stops(made: Paths, tmp_path: Path, framework: str) -> None:
    params = ("--params", write_params(tmp_path), "--set", f"framework={framework}", "--set", "batch_size=32")
    code, text = run_quietly("train", "--dry-run", "--dataset", made.dataset, *params)
    assert code == 0, text
    said = yaml.safe_load(text)
    preset = said["train"].pop("settings")
    assert (said["train"]["framework"], said["train"]["batch_size"], preset["latent_size"]) == (framework, 32, 4)
    assert "presets" not in said["train"]
    assert said["images"]["count"] == len(Dataset.open(made.dataset).train)
    assert said["machine"]["device"] == "cpu"
    found = load_file(made.checkpoint / "model" / "generator.safetensors")
    assert said["parameters"]["generator"] == sum(value.size for value in found.values())
    assert said["parameters"]["total"] == said["parameters"]["generator"] + said["parameters"]["discriminator"]
    assert said["memory_mib"]["total"] == pytest.approx(sum(said["memory_mib"].values()) / 2, abs=0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("change", "words"),
    [("steps=0", "steps: Input should be greater than 0"), ("processes=3", "batch_size: 16 cannot be shared")],
)
def test_a_dry_run_refuses_what_training_would(made: Paths, tmp_path: Path, change: str, words: str) -> None:
    params = ("--params", write_params(tmp_path), "--set", change)
    code, text = run_quietly("train", "--dry-run", "--dataset", made.dataset, *params)
    assert (code, words in text) == (1, True)
    code, text = run_quietly("train", "--dry-run", *params)
    assert (code, "the following arguments are required: --dataset\n" in text) == (2, True)


def test_a_changed_dataset_is_refused(made: Paths, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"{tmp_path} is not a dataset"):
        train(tmp_path, tmp_path / "c", tmp_path / "h", tiny_params("train"))


LONG = {"train": {"steps": 300, "checkpoint_seconds": 0.01}}


@pytest.fixture(scope="module")
def uninterrupted(made: Paths, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    paths = Paths(tmp_path_factory.mktemp("uninterrupted"))
    train(made.dataset, paths.checkpoint, paths.history, tiny_params("train", steps=300))
    return paths


def start(made: Paths, folder: Path, **changes: Any) -> "subprocess.Popen[str]":
    """The long training in another process, with its state in `folder`."""
    params = write_params(folder, {"train": LONG["train"] | changes})
    command = [
        sys.executable, "-m", "components.train", "--dataset", str(made.dataset),
        "--params", str(params), "--checkpoint", str(folder / "checkpoint"),
        "--history", str(folder / "history.jsonl"), "--state", str(folder / "state"),
    ]  # fmt: skip
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_history(child: "subprocess.Popen[str]", state: Path, lines: int) -> Path:
    deadline = time.monotonic() + 60
    while True:
        for path in state.glob("*/log/stats.jsonl"):
            if len(path.read_text().splitlines()) >= lines:
                return path
        assert child.poll() is None, child.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_killed_run_goes_on_to_what_it_would_have_made(
    made: Paths, uninterrupted: Paths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    with start(made, tmp_path) as child:
        killed = wait_for_history(child, state, lines=2)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert 100 <= steps_of(killed)[-1] < 300
    assert not (tmp_path / "checkpoint").exists()
    # As after a kill between the report of a step and the state that holds it.
    with killed.open("a") as file:
        file.write(json.dumps({"step": 250, "steps": 300, "images_per_second": 1.0}) + "\n")

    train(
        made.dataset,
        tmp_path / "checkpoint",
        tmp_path / "history.jsonl",
        tiny_params("train", **LONG["train"]),
        state,
    )
    assert "resuming the training" in caplog.text
    assert weights(tmp_path / "checkpoint") == weights(uninterrupted.checkpoint)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(50, 301, 50))
    assert not any(path.is_dir() for path in state.iterdir()), "the state outlives its use"


def test_sigterm_ends_with_the_status_that_means_start_me_again(
    made: Paths, uninterrupted: Paths, tmp_path: Path
) -> None:
    with start(made, tmp_path) as child:
        wait_for_history(child, tmp_path / "state", lines=1)
        child.send_signal(signal.SIGTERM)
        text, _ = child.communicate(timeout=120)
    assert child.returncode == PAUSED == 75, text
    assert re.search(r"^paused: asked to end after step \d+ of 300; the training state is saved in ", text, re.M)
    assert "Traceback" not in text
    assert not (tmp_path / "checkpoint").exists()
    with start(made, tmp_path) as child:
        text, _ = child.communicate(timeout=120)
    assert child.returncode == 0, text
    assert "resuming the training" in text
    assert weights(tmp_path / "checkpoint") == weights(uninterrupted.checkpoint)


def test_a_training_that_diverged_is_not_repeated_by_the_same_code(
    made: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubeflow repeats whatever fails; hours would go by until the same end."""
    fitted = []

    def diverge(*arguments: Any) -> Any:
        fitted.append(arguments[3])
        raise DivergedError("not_finite", "step 5 is not finite")

    def attempt(**changes: Any) -> None:
        params = tiny_params("train", **changes)
        train(made.dataset, tmp_path / "c", tmp_path / "h", params, tmp_path / "state")

    monkeypatch.setattr("components.train._fit", diverge)
    with pytest.raises(DivergedError):
        attempt()
    with pytest.raises(
        TrainingError, match=r"has failed before, and is not repeated: step 5 is not finite"
    ) as caught:
        attempt()
    assert not isinstance(caught.value, DivergedError)
    assert len(fitted) == 1
    with pytest.raises(DivergedError):
        attempt(seed=1)
    monkeypatch.setattr("components.train.code_commit", lambda: "f" * 40)
    with pytest.raises(DivergedError):
        attempt()
    (fitted[0] / "failed.json").unlink()
    with pytest.raises(DivergedError):
        attempt()
    assert len(fitted) == 4


def test_what_a_training_leaves_on_a_shared_volume_is_its_owners_alone(
    made: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pod of Argo the umask is 0: all would be writable for everybody."""
    add = TrainingLog.add

    def then_end(log: TrainingLog, progress: Progress) -> None:
        add(log, progress)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingLog, "add", then_end)
    before = os.umask(0)
    try:
        with pytest.raises(TrainingPausedError):
            train(made.dataset, tmp_path / "c", tmp_path / "h", tiny_params("train"), tmp_path / "state")
        assert os.umask(0) == 0  # as it was
    finally:
        os.umask(before)
    left = [tmp_path / "state", *(tmp_path / "state").rglob("*")]
    assert {"training.safetensors", "stats.jsonl"} <= {path.name for path in left}
    for path in left:
        mode = path.stat().st_mode & 0o777
        assert not mode & 0o022, f"{path}: {mode:o}"
        assert not path.is_dir() or mode == 0o700, f"{path}: {mode:o}"


def test_without_a_state_nothing_is_promised(made: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingLog, "add", lambda log, progress: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(TrainingError, match="nothing is kept, since no folder `state` was given") as caught:
        train(made.dataset, tmp_path / "c", tmp_path / "h", tiny_params("train"))
    assert not isinstance(caught.value, TrainingPausedError)  # whose exit status would mean: start me again


def test_a_run_whose_listener_is_gone_saves_its_state_and_ends(
    made: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the process that started it is killed: it is not left behind, training for nobody."""
    monkeypatch.setenv("TROIKA_REDRAWS_PROGRESS", "1")
    with start(made, tmp_path, steps=10**6, checkpoint_seconds=1000.0) as child:
        wait_for_history(child, tmp_path / "state", lines=1)
        assert child.stdout is not None
        child.stdout.close()
        assert child.wait(timeout=120) == PAUSED
    (state,) = (tmp_path / "state").glob("*/training.safetensors")
    with safe_open(state, framework="numpy") as file:
        assert int(file.metadata()["step"]) >= 50


def test_a_log_gets_whole_lines_of_progress_and_the_last_also_of_a_training_that_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(TrainingError), _progress_bar(tiny_params("train", steps=150)) as bar:
        for step in (50, 100):
            _show(bar, Progress(step, 150, 128.0, {"generator_loss": 0.5}, None))
        raise TrainingError
    first, last = capsys.readouterr().out.splitlines(keepends=True)
    assert re.search(r"^r3gan +0% +0/150 steps  \? left  starting\n$", first)
    assert re.search(r"^r3gan +67% .* 100/150 steps  \d\d:\d\d left  128 images/s  generator 0.500\n$", last)


def test_a_training_of_one_report_has_no_time_left_and_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    with _progress_bar(tiny_params("train", steps=50)) as bar:
        _show(bar, Progress(50, 50, 128.0, {"generator_loss": 0.5}, None))
        bar.refresh()
    _, last = capsys.readouterr().out.splitlines(keepends=True)
    assert re.search(r" 50/50 steps  00:00 left  128 images/s  generator 0.500\n$", last)


def test_on_a_terminal_warnings_come_above_the_bar_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TROIKA_REDRAWS_PROGRESS", "1")
    handlers = list(logging.getLogger().handlers)
    with _progress_bar(tiny_params("train", steps=150)):
        assert logging.getLogger().handlers == handlers, "other libraries' logs are not ours"
        logging.getLogger("troika.models").warning("something to know")
    said = capsys.readouterr()
    assert (said.out + said.err).count("something to know\n") == 1


def test_time_left_is_that_of_the_steps_which_this_process_has_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TROIKA_REDRAWS_PROGRESS", "1")
    now = 1000.0
    monkeypatch.setattr("time.time", lambda: now)
    params = tiny_params("train", steps=1000)
    with _progress_bar(params) as bar:
        bar._time = time.time  # type: ignore[attr-defined]
        now += 60  # compiling
        for step in (850, 900):  # resumed after step 800
            _show(bar, Progress(step, 1000, 128.0, {"generator_loss": 0.5}, None))
            now += 10
    assert "900/1,000 steps  00:20 left" in capsys.readouterr().out


def test_two_at_once_on_one_state_both_finish(made: Paths, uninterrupted: Paths, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with start(made, tmp_path) as child:
        wait_for_history(child, state, lines=1)
        paths = (tmp_path / "second" / "checkpoint", tmp_path / "second" / "history.jsonl")
        train(made.dataset, *paths, tiny_params("train", **LONG["train"]), state)
        text, _ = child.communicate(timeout=120)
    assert child.returncode == 0, text
    for folder in (tmp_path, tmp_path / "second"):
        assert weights(folder / "checkpoint") == weights(uninterrupted.checkpoint)
        assert steps_of(folder / "history.jsonl") == list(range(50, 301, 50))


def test_a_state_in_use_is_left_alone(made: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(folder: str) -> None:
        paths = (tmp_path / folder / "checkpoint", tmp_path / folder / "history.jsonl")
        train(made.dataset, *paths, tiny_params("train"), tmp_path / "state")

    run("first")
    (lock,) = (tmp_path / "state").iterdir()
    assert lock.suffix == ".lock"
    folder = lock.with_suffix("")
    folder.mkdir()
    (folder / "training.safetensors").write_bytes(b"of another process")
    with FileLock(lock):
        run("second")
    assert "the same training is under way in another process; this one starts from nothing" in (
        capsys.readouterr().out
    )
    assert (folder / "training.safetensors").read_bytes() == b"of another process"
    assert weights(tmp_path / "second" / "checkpoint") == weights(made.checkpoint)


def test_a_state_that_cannot_be_written_is_named(made: Paths, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ParameterError, match=f"state: cannot write {tmp_path / 'file'}"):
        train(made.dataset, tmp_path / "c", tmp_path / "h", tiny_params("train"), tmp_path / "file")
