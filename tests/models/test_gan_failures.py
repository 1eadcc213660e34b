"""A training that cannot succeed ends early and by name; what is shown here has really failed."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_gans import fit_small, same_weights, schedule, small_settings

from troika.datasets.contract import Dataset
from troika.errors import DivergedError, TrainingPausedError
from troika.models.contract import Progress
from troika.models.gan import loop

FRAMEWORKS = ("pytorch", "tensorflow")


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


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


def test_numbers_that_overflow_end_the_training(digits: Dataset, tmp_path: Path, framework: str) -> None:
    """A penalty so strong that its gradient is infinite spoils the weights of the first step."""
    with pytest.raises(DivergedError, match="of step 1 is not a finite number") as caught:
        fit_small(digits, "r3gan", tmp_path, framework=framework, penalty_gamma_start=1e38, penalty_gamma_end=1e38)
    assert caught.value.cause == "not_finite"


def test_a_saturated_discriminator_ends_the_training(digits: Dataset, tmp_path: Path) -> None:
    """A learning rate of nothing keeps the loss where it is: below a limit that is high enough."""
    with pytest.raises(DivergedError, match=r"discriminator is saturated.* below 100 up to step 1000") as caught:
        fit_small(digits, "article", tmp_path, schedule(steps=2000, batch_size=2), discriminator_loss_below=100.0)
    assert caught.value.cause == "discriminator_saturated"


def test_lost_variety_ends_the_training(digits: Dataset, tmp_path: Path) -> None:
    """A label that drowns the latent, no penalty: what comes of such a training is one image for each class."""
    long, reports = schedule(steps=400, ticks=8), list[Progress]()
    bad = {"latent_size": 1, "label_scale": 100.0, "loss": "hinge", "penalty": "none"}
    none = {"penalty_gamma_start": 0.0, "penalty_gamma_end": 0.0}
    with pytest.raises(DivergedError, match=r"training collapsed: at step 200 samples differ") as caught:
        fit_small(digits, "r3gan", tmp_path / "a", long, report=reports.append, **bad, **none)
    assert caught.value.cause == "variety_lost"
    assert small_settings("r3gan").variety_below == 0.1
    # Negative control: the same, with latent and label as the preset has them.
    heard = bad | {"latent_size": 7, "label_scale": 3.0}
    fit_small(digits, "r3gan", tmp_path / "b", long, report=reports.append, **heard, **none)
    # It is so: in the columns of the sample grid, one for each class, the six images of the first are the same.
    spread = [np.stack(np.split(made, 6)).std(0).mean() for one in reports if (made := one.samples) is not None]
    assert spread[2] < 0.1 * spread[-1]


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
