"""A training that was cut off goes on to what it would have become."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_gans import fit_small, same_weights, schedule

from troika.datasets.contract import Dataset
from troika.errors import TrainingPausedError
from troika.models.contract import Progress

FRAMEWORKS = ("pytorch", "tensorflow")
KILLED = {"steps": 220, "seed": 5, "ticks": 3}


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def kill_while_training(digits: Dataset, preset: str, framework: str, state: Path) -> None:
    """Train in another process that is killed, by SIGKILL, somewhere after its first report."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]; from small_gans import *; import time\n"
        "def report(progress): print(progress.step, flush=True); time.sleep(0.1)\n"
        f"fit_small(Dataset.open(Path(sys.argv[3])), {preset!r}, Path(sys.argv[4]),"
        f" schedule(checkpoint_seconds=0, **{KILLED!r}), {framework!r}, report)\n"
    )
    here = Path(__file__).parent
    command = [sys.executable, "-c", code, str(here), str(here.parent), str(digits.folder), str(state)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "50\n"
        time.sleep(0.13)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL


# In TensorFlow the one with dropout and running statistics alone: each process there takes seconds to start.
@pytest.mark.parametrize(
    ("framework", "preset"), [("pytorch", "r3gan"), ("pytorch", "article"), ("tensorflow", "article")]
)
def test_a_killed_run_resumes_with_the_weights_and_the_curve_of_an_uninterrupted_one(
    digits: Dataset, tmp_path: Path, framework: str, preset: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also moments, moving average, dropout, running statistics and the order of the images."""
    kill_while_training(digits, preset, framework, tmp_path / "state")
    curves: list[list[Progress]] = [[], []]
    resumed = fit_small(digits, preset, tmp_path / "state", schedule(**KILLED), framework, curves[0].append)
    step = int(caplog.messages[0].removeprefix(f"resuming the training in {tmp_path / 'state'} after step "))
    assert 49 <= step < 220
    whole = fit_small(digits, preset, tmp_path / "none", schedule(**KILLED), framework, curves[1].append)
    assert same_weights(resumed, whole)
    assert 0 < len(curves[0]) <= len(curves[1]) == 5
    for one, other in zip(reversed(curves[0]), reversed(curves[1]), strict=False):
        assert (one.step, one.figures) == (other.step, other.figures)


def test_sigterm_saves_and_the_same_call_goes_on(digits: Dataset, tmp_path: Path, framework: str) -> None:
    def ask_to_end(progress: Progress) -> None:
        if progress.step == 100:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingPausedError, match=r"after step 10[01] of 220.* goes on from there"):
        fit_small(digits, "r3gan", tmp_path / "state", schedule(**KILLED), framework, ask_to_end)
    assert signal.getsignal(signal.SIGTERM) == before
    steps: list[int] = []
    resumed = fit_small(
        digits, "r3gan", tmp_path / "state", schedule(**KILLED), framework, lambda made: steps.append(made.step)
    )
    assert steps == [150, 200, 220]
    assert same_weights(resumed, fit_small(digits, "r3gan", tmp_path / "none", schedule(**KILLED), framework))


def interrupted_state(digits: Dataset, state: Path, framework: str) -> None:
    """The state of a run that was broken off in its 50th step."""

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_small(digits, "r3gan", state, schedule(checkpoint_seconds=0, **KILLED), framework, stop)


@pytest.mark.parametrize(
    ("changes", "seed"), [({"beta2_end": 0.98}, 5), ({}, 6)], ids=["other settings", "other seed"]
)
def test_a_state_of_another_training_is_not_used(
    digits: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], seed: int
) -> None:
    interrupted_state(digits, tmp_path / "state", "pytorch")
    other = schedule(steps=60, seed=seed)
    found = fit_small(digits, "r3gan", tmp_path / "state", other, **changes)
    assert "is of another dataset, preset or schedule" in caplog.text
    assert same_weights(found, fit_small(digits, "r3gan", tmp_path / "none", other, **changes))


def test_a_damaged_state_is_not_used(digits: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    interrupted_state(digits, tmp_path / "state", "pytorch")
    (file,) = (tmp_path / "state").iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    found = fit_small(digits, "r3gan", tmp_path / "state")
    assert "cannot be read" in caplog.text
    assert same_weights(found, fit_small(digits, "r3gan", tmp_path / "none"))
