"""Both branches of the gate, through KFP's local runner, in real subprocesses, by the command that people use."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from quick import REPOSITORY, plain_environment, quick_sections

from troika.releases.pointer import read_release

Troika = Callable[..., subprocess.CompletedProcess[str]]


def write_params(folder: Path, *, promoted: bool) -> Path:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(quick_sections(promoted=promoted)))
    return path


def command(home: Path, *arguments: str | Path) -> list[str]:
    return [
        sys.executable, "-m", "troika.cli", "run",
        "--home", str(home / "home"), "--output", str(home / "output"), *map(str, arguments),
    ]  # fmt: skip


def troika_run(home: Path, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(home, *arguments),
        check=False,
        cwd=REPOSITORY,
        env=plain_environment() | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )


def stored(home: Path) -> list[str]:
    return sorted(path.parent.name for path in (home / "home" / "store").glob("*/sha256-*/manifest.json"))


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    home = tmp_path_factory.mktemp("promoted")
    return home, troika_run(home, "--params", write_params(home, promoted=True))


def test_a_promoted_model_is_published_released_and_served(
    promoted: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    home, finished = promoted
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "Promoted: " in finished.stdout
    (entry,) = stored(home)
    released = read_release(home / "home" / "releases.git", "local")
    assert released is not None
    assert released.digest == entry.replace("-", ":")
    assert f"Triton serves {released.digest}" in finished.stdout
    assert {path.name for path in (home / "output").iterdir()} == {
        "samples.png",
        "evaluation.html",
        "data.html",
        "training.html",
    }


def test_what_the_ui_shows_is_small_and_stands_alone(
    promoted: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    home, _ = promoted
    (card,) = (home / "home" / "runs").glob("*/export-model/card")
    assert card.read_text().startswith("# Model card: digits")
    pages = [*(home / "home" / "runs").glob("*/*/report"), card]
    assert len(pages) == 4
    for page in pages:
        assert page.stat().st_size < 2_000_000
        assert not re.search(r"(src|href)=[\"'](?!data:|#)", page.read_text())


def test_the_output_is_calm(promoted: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, finished = promoted
    assert finished.stderr == ""
    assert not re.search(
        r"KFP Executor|executor_input|\d\d:\d\d:\d\d\.\d{3} - |schemaTitle|Traceback", finished.stdout
    )
    assert len(finished.stdout.splitlines()) < 50


def test_a_second_run_does_again_only_what_acts_outside(
    promoted: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    home, _ = promoted
    again = troika_run(home, "--params", home / "params.yaml")
    assert again.returncode == 0, again.stdout + again.stderr
    # There is a champion now, so evaluate looks again; after that it does not.
    assert "unchanged, not run again: prepare_data, train, export_model, train_evaluator\n" in again.stdout
    assert "is already released" in again.stdout
    assert len(stored(home)) == 1
    changed = troika_run(home, "--params", home / "params.yaml", "--seed", "1")
    assert "unchanged, not run again: prepare_data, train_evaluator\n" in changed.stdout
    assert len(stored(home)) == 2


@pytest.fixture(scope="module")
def rejected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    home = tmp_path_factory.mktemp("rejected")
    # One step leaves the generator at noise: the negative control of the whole job, with the limits as they are.
    return home, troika_run(home, "--params", write_params(home, promoted=False), "--steps", "1")


def test_a_generator_of_noise_is_rejected_and_stops_before_the_store(
    rejected: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    home, finished = rejected
    assert finished.returncode == 1
    assert "Rejected: " in finished.stdout
    assert "frechet_distance = " in finished.stdout
    assert "not published and not released" in finished.stderr
    assert "Traceback" not in finished.stdout + finished.stderr
    assert stored(home) == []
    assert read_release(home / "home" / "releases.git", "local") is None
    assert {path.name for path in (home / "output").iterdir()} == {
        "evaluation.html",
        "training.html",
        "data.html",
    }


def test_a_rejection_after_a_release_leaves_the_release_alone(
    promoted: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    home, _ = promoted
    before = read_release(home / "home" / "releases.git", "local")
    finished = troika_run(
        home,
        "--params",
        home / "params.yaml",
        "--set",
        "evaluate.limits.frechet_distance.at_most=1.0e-6",
        "--set",
        "evaluate.limits.frechet_distance.above_floor=null",
    )
    assert finished.returncode == 1
    assert read_release(home / "home" / "releases.git", "local") == before
    assert not (home / "output" / "samples.png").exists()  # the picture would be of another model


def test_a_failing_step_is_named_and_its_error_shown(tmp_path: Path) -> None:
    params = write_params(tmp_path, promoted=True)
    finished = troika_run(
        tmp_path, "--params", params, "--set", "prepare_data.source=npz", "--set", "prepare_data.path=no.npz"
    )
    assert finished.returncode == 1
    assert "error: no.npz does not exist; path must name a .npz file" in finished.stdout
    assert "step prepare_data failed; the whole log is in" in finished.stderr
    assert "Traceback" not in finished.stdout + finished.stderr


def test_releases_that_cannot_be_read_stop_a_run_before_training(tmp_path: Path) -> None:
    params, remote = write_params(tmp_path, promoted=True), str(tmp_path / "nowhere.git")
    finished = troika_run(tmp_path, "--params", params, TROIKA_RELEASE_REMOTE=remote)
    assert finished.returncode == 1
    assert "nowhere.git" in finished.stderr
    assert finished.stdout == ""


def test_a_run_goes_on_when_nobody_listens_any_more(
    promoted: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    """As in `troika run | head -1`."""
    home, _ = promoted
    picture = home / "output" / "samples.png"
    picture.unlink(missing_ok=True)
    process = subprocess.Popen(
        command(home, "--params", home / "params.yaml"),
        cwd=REPOSITORY,
        env=plain_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    process.stdout.close()
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (0, "")
    assert picture.exists()


def end_while_training(tmp_path: Path, by: signal.Signals, arguments: list[str | Path]) -> None:
    """Start the run, and end all its processes once it has trained for some steps."""
    process = subprocess.Popen(
        command(tmp_path, *arguments),
        cwd=REPOSITORY,
        env=plain_environment(),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )

    def lines() -> int:
        logs = (tmp_path / "home" / "training").glob("*/log/stats.jsonl")
        return sum(len(path.read_text().splitlines()) for path in logs)

    before, deadline = lines(), time.monotonic() + 120
    while lines() <= before:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, by)
    process.wait()


def test_a_run_that_was_ended_and_killed_in_training_goes_on_from_there(tmp_path: Path) -> None:
    params, state = write_params(tmp_path, promoted=True), tmp_path / "home" / "training"
    arguments: list[str | Path] = ["--params", params, "--steps", "900", "--set"]
    # Asked to end, as a node that is drained asks its pods: training saves its state first.
    end_while_training(tmp_path, signal.SIGTERM, [*arguments, "train.checkpoint_seconds=1000"])
    deadline = time.monotonic() + 30
    while not list(state.glob("*/training.safetensors")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # Killed while it goes on.
    end_while_training(tmp_path, signal.SIGKILL, [*arguments, "train.checkpoint_seconds=0.5"])
    assert stored(tmp_path) == []

    finished = troika_run(tmp_path, *arguments, "train.checkpoint_seconds=0.5")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert re.search(r"unchanged, not run again: prepare_data(, train_evaluator)?\n", finished.stdout)
    assert re.search(r"resum\w+", finished.stdout)
    assert not list(state.glob("*/"))
    (history,) = (tmp_path / "home" / "runs").glob("*/train/history")
    steps = [json.loads(line)["step"] for line in history.read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] == 900


def test_two_runs_at_once_both_succeed(tmp_path: Path) -> None:
    params = write_params(tmp_path, promoted=True)
    runs = [
        subprocess.Popen(
            command(tmp_path, "--params", params, "--output", tmp_path / f"output-{number}"),
            cwd=REPOSITORY,
            env=plain_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in (1, 2)
    ]
    for number, run in enumerate(runs, start=1):
        text, _ = run.communicate(timeout=300)
        assert run.returncode == 0, text
        assert (tmp_path / f"output-{number}" / "samples.png").exists()
    assert len(stored(tmp_path)) == 1
