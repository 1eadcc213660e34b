"""Whether a training can still become good, and whether it still becomes better. Knows no framework.

Three ways to fail end a training early, each under its own name: numbers that are not finite, a discriminator that
is always right (the generator learns nothing from it), and samples that have lost their variety. Nothing is
repaired. And where `early_stop_patience` asks for it, a training ends when its samples come no closer to the
validation images.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from troika.datasets.contract import Split
from troika.errors import DivergedError
from troika.models.contract import Images, Labels, Latents, ModelSpec
from troika.models.gan.batches import derive_seed
from troika.models.gan.figures import FIGURES, Rows, mean_figures
from troika.models.gan.settings import GANSettings

_PATIENCE = 20
"""Reports in a row with a saturated discriminator: 1,000 steps."""
_TICKS = 3
"""Ticks in a row without variety ..."""
_EARLIEST = 0.25
"""... after this share of the steps: a moving average of young weights has little."""
_IMAGES = 512
_EDGE = 8


@dataclass(frozen=True)
class Look:
    """What a tick found."""

    variety: float
    """Mean distance between samples of the same label over that between validation images of the same label."""
    validation_distance: float
    """Energy distance (Székely 2003) between samples and validation images, both shrunk to at most 8x8."""


class Reference:
    """Validation images that samples are compared with, and the latents and labels of those samples."""

    def __init__(self, validation: Split, spec: ModelSpec, seed: int) -> None:
        random = np.random.default_rng(derive_seed(seed, "reference", 0))
        chosen = np.sort(random.permutation(len(validation))[:_IMAGES])
        labels = np.asarray(validation.labels[chosen])
        self.labels: Labels | None = labels if spec.conditional else None
        self.latents: Latents = random.standard_normal((len(chosen), spec.latent_size), np.float32)
        self._groups = labels if spec.conditional else np.zeros(len(chosen), np.int64)
        self._images = _shrink(np.asarray(validation.images[chosen]))
        self._within = _mean_distance_within(self._images, self._groups)
        self._to_itself = _mean_distance(self._images, self._images)

    def look(self, samples: Images) -> Look:
        """Compare the samples for `latents` and `labels` with the real images."""
        fakes = _shrink(samples)
        to_real, to_itself = _mean_distance(fakes, self._images), _mean_distance(fakes, fakes)
        within = _mean_distance_within(fakes, self._groups)
        return Look(
            variety=within / self._within if self._within > 0 else 1.0,
            validation_distance=2 * to_real - to_itself - self._to_itself,
        )


class Watch:
    """Remembers what it has seen of one training; `memory` is saved with the training's state."""

    def __init__(self, settings: GANSettings, steps: int, memory: dict[str, Any] | None = None) -> None:
        self._settings = settings
        self._steps = steps
        self.memory: dict[str, Any] = memory or {
            "saturated": 0, "without_variety": 0, "best": None, "ticks_since_best": 0
        }  # fmt: skip

    def check_figures(self, done: int, rows: Rows, *, last: bool = True) -> None:
        """Look at what the last steps, the `done`-th being the last one, have noted down.

        Args:
            done: steps that are done.
            rows: see figures.py; at least one.
            last: whether these steps are reported now; else only finite numbers are asked for.

        Raises:
            DivergedError: one is not finite, or the discriminator has been saturated for too long.
        """
        rate, limit = self._settings.learning_rate_start, self._settings.discriminator_loss_below
        finite = np.isfinite(rows)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise DivergedError(
                "not_finite",
                f"training diverged: {FIGURES[column]} of step {done - len(rows) + row + 1} is not a finite "
                f"number; try learning_rate_start {rate / 4:g} instead of {rate:g}",
            )
        if not last:
            return
        figures = mean_figures(rows)
        # Wasserstein's loss falls without end; a small one says nothing.
        saturated = self._settings.loss != "wasserstein" and figures["discriminator_loss"] < limit
        self.memory["saturated"] = self.memory["saturated"] + 1 if saturated else 0
        if self.memory["saturated"] >= _PATIENCE:
            raise DivergedError(
                "discriminator_saturated",
                f"training is stuck: the discriminator is saturated, its loss has been below {limit:g} up to step "
                f"{done}, and the generator learns nothing from it; try a penalty (penalty: r1_r2), dropout, or a "
                f"learning_rate_start below {rate:g}",
            )

    def check_samples(self, step: int, look: Look) -> bool:
        """Take in what the tick after `step` steps found; whether it is the best so far.

        Raises:
            DivergedError: the samples have lost their variety.
        """
        limit = self._settings.variety_below
        lost = look.variety < limit and step >= _EARLIEST * self._steps
        self.memory["without_variety"] = self.memory["without_variety"] + 1 if lost else 0
        if self.memory["without_variety"] >= _TICKS:
            raise DivergedError(
                "variety_lost",
                f"training collapsed: at step {step} samples differ from each other by {look.variety:.1%} of what "
                f"validation images do, for the third tick below {limit:.0%}; try a penalty (penalty: r1_r2), the "
                "relativistic loss, or another seed",
            )
        best = self.memory["best"]
        if best is None or look.validation_distance < best:
            self.memory |= {"best": look.validation_distance, "ticks_since_best": 0}
            return True
        self.memory["ticks_since_best"] += 1
        return False

    @property
    def stops_early(self) -> bool:
        """Whether the settings ask to end here, with the best weights so far."""
        patience = self._settings.early_stop_patience
        return patience > 0 and self.memory["ticks_since_best"] >= patience


def _shrink(images: Images) -> NDArray[np.float32]:
    """Rows of at most 8x8xC values in 0..1, by averaging blocks."""
    count, height, width, channels = images.shape
    down, across = max(1, height // _EDGE), max(1, width // _EDGE)
    cut = images[:, : height // down * down, : width // across * across].astype(np.float32) / 255
    blocks = cut.reshape(count, height // down, down, width // across, across, channels).mean((2, 4))
    shrunk: NDArray[np.float32] = blocks.reshape(count, -1)
    return shrunk


def _distances(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    left, right = one.astype(np.float64), other.astype(np.float64)
    squares = (left**2).sum(1)[:, None] + (right**2).sum(1)[None] - 2 * left @ right.T
    distances: NDArray[np.float64] = np.sqrt(np.maximum(squares, 0))
    return distances


def _mean_distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(_distances(one, other).mean())


def _mean_distance_within(images: NDArray[np.float32], groups: NDArray[np.int64]) -> float:
    """Over all pairs of different images of the same group; 0 where there is no such pair."""
    same = groups[:, None] == groups[None]
    np.fill_diagonal(same, val=False)
    return float(_distances(images, images)[same].mean()) if same.any() else 0.0
