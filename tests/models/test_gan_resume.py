"""A training that was cut off goes on to what it would have become; one that cannot succeed ends by name."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_gans import fit_small, schedule, small_settings

from troika.datasets.contract import Dataset
from troika.errors import DivergedError, TrainingPausedError
from troika.models.contract import Progress
from troika.models.gan import loop
from troika.models.gan.model import GAN

FRAMEWORKS = ("pytorch", "tensorflow")
KILLED = {"steps": 220, "seed": 5, "ticks": 3}


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def same_weights(one: GAN, other: GAN) -> bool:
    return one.weights.keys() == other.weights.keys() and all(
        np.array_equal(one.weights[name], other.weights[name]) for name in one.weights
    )


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


def test_divergence_names_the_step_and_the_learning_rate(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, framework: str
) -> None:
    drawn = loop.latents_of_step

    def spoilt(seed: int, step: int, count: int, size: int) -> Any:
        return drawn(seed, step, count, size) * np.float32("nan" if step == 4 else 1)

    monkeypatch.setattr(loop, "latents_of_step", spoilt)
    with pytest.raises(DivergedError, match=r"step 5 .* learning_rate_start 0.001 instead of 0.004") as caught:
        fit_small(digits, "r3gan", tmp_path, framework=framework)
    assert caught.value.cause == "not_finite"
    # Nor is a spoilt state ever saved.
    for _ in range(2):
        with pytest.raises(DivergedError, match="step 5 "):
            fit_small(digits, "r3gan", tmp_path, schedule(checkpoint_seconds=0), framework)


def test_a_saturated_discriminator_ends_the_training(digits: Dataset, tmp_path: Path) -> None:
    """A learning rate of nothing keeps the loss where it is: below a limit that is high enough."""
    with pytest.raises(DivergedError, match=r"discriminator is saturated.* below 100 up to step 1000") as caught:
        fit_small(digits, "article", tmp_path, schedule(steps=2000, batch_size=2), discriminator_loss_below=100.0)
    assert caught.value.cause == "discriminator_saturated"


def test_lost_variety_ends_the_training(digits: Dataset, tmp_path: Path) -> None:
    """A generator that hears its label far louder than its latent: nearly one image for each class."""
    changes = {"label_scale": 100.0, "learning_rate_start": 1e-6, "learning_rate_end": 1e-6, "variety_below": 0.5}
    with pytest.raises(DivergedError, match=r"training collapsed: at step 200 samples differ") as caught:
        fit_small(digits, "r3gan", tmp_path, schedule(steps=400, ticks=8, batch_size=2), **changes)
    assert caught.value.cause == "variety_lost"
    # Negative control: a fifth of the real images' variety is more than a tenth of it.
    fit_small(
        digits, "r3gan", tmp_path, schedule(steps=400, ticks=8, batch_size=2), **(changes | {"variety_below": 0.1})
    )


def test_early_stop_keeps_the_best_weights(digits: Dataset, tmp_path: Path) -> None:
    """At a learning rate that is too high, the figure on validation images goes up and down."""
    changes = {
        "early_stop_patience": 2, "learning_rate_start": 0.02, "learning_rate_end": 0.02, "variety_below": 0.0,
        "ema_half_life_images": 0,
    }  # fmt: skip
    reports: list[Progress] = []
    stopping = schedule(steps=600, ticks=12, batch_size=4)
    model = fit_small(digits, "r3gan", tmp_path / "a", stopping, report=reports.append, **changes)
    distances = {one.step: one.figures["validation_distance"] for one in reports if one.samples is not None}
    best = min(distances, key=distances.__getitem__)
    assert reports[-1].step < 600
    assert list(distances)[-3] == best  # two ticks more, neither better
    assert small_settings("r3gan").early_stop_patience == 0

    # Broken off after the best tick, it still ends with the best weights.
    def stop(progress: Progress) -> None:
        if progress.step == best + 50:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingPausedError):
        fit_small(digits, "r3gan", tmp_path / "b", stopping, report=stop, **changes)
    assert same_weights(model, fit_small(digits, "r3gan", tmp_path / "b", stopping, **changes))
    # Negative control: a training that does not stop early ends with its last weights, which are others.
    last = fit_small(digits, "r3gan", tmp_path / "c", stopping, **(changes | {"early_stop_patience": 0}))
    assert not same_weights(model, last)
