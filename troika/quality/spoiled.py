"""Generators that are known to be bad, made of a run's own real images. What the gate must not let through.

All but the copies are made of held-out images, so that what gives them away is the defect and nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from troika.datasets.contract import Images, Labels, Split
from troika.quality.real import RealSide

Draw = Callable[[np.random.Generator, Labels], Images]


@dataclass(frozen=True)
class Spoiled:
    """A generator whose images `make` makes."""

    name: str
    make: Draw
    conditional: bool
    seen_by: tuple[str, ...]
    """Figures any of which gives it away."""

    def draw(self, seeds: NDArray[np.int64], labels: Labels) -> Images:
        """Images uint8 (N, H, W, C); the same seeds and labels give the same."""
        return self.make(np.random.default_rng(int(seeds[0])), labels)


def spoiled_generators(real: RealSide, *, conditional: bool) -> list[Spoiled]:
    """All that mean something for this dataset and kind of model."""
    held_out, train = real.held_out, real.train
    classes = len(real.dataset.info.classes)
    shape = real.dataset.info.shape
    distances = ("frechet_distance", "coverage", "precision", "recall")
    found = [
        Spoiled("noise", lambda rng, labels: _noise(rng, len(labels), shape), conditional, distances),
        Spoiled(
            "one image repeated",
            lambda _rng, labels: np.repeat(held_out.images[:1], len(labels), axis=0),
            conditional,
            distances,
        ),
        Spoiled(
            "copies of training images", images_of(train), conditional, ("memorisation", "memorisation_pixels")
        ),
        Spoiled("blurred", lambda rng, labels: _blurred(images_of(held_out)(rng, labels)), conditional, distances),
        Spoiled(
            "inverted", lambda rng, labels: np.invert(images_of(held_out)(rng, labels)), conditional, distances
        ),
    ]
    if classes > 1:
        # Three of ten classes, of fewer as many less.
        present = np.unique(held_out.labels)
        kept = max(1, min(3, len(present) * 3 // 10))
        few = lambda rng, labels: images_of(held_out)(rng, present[labels % kept])  # noqa: E731
        found.append(Spoiled(f"{kept} of {classes} classes", few, conditional, ("class_balance", *distances)))
    if classes > 1 and conditional:
        shuffled = lambda rng, labels: images_of(held_out)(rng, rng.permutation(labels))  # noqa: E731
        found.append(
            Spoiled("labels shuffled", shuffled, conditional, ("label_agreement", "classification_accuracy"))
        )
    return found


def real_images(real: RealSide, *, conditional: bool) -> Spoiled:
    """The control: held-out images themselves, which no sensible limit refuses."""
    return Spoiled("held-out images themselves", images_of(real.held_out), conditional, ())


def images_of(split: Split) -> Draw:
    """Of each label a random image of the split; of a class that it lacks, any image."""

    def draw(rng: np.random.Generator, labels: Labels) -> Images:
        images = np.empty((len(labels), *split.images.shape[1:]), np.uint8)
        for label in np.unique(labels):
            asked = labels == label
            rows = np.flatnonzero(split.labels == label)
            images[asked] = split.images[rng.choice(rows if len(rows) else len(split), asked.sum())]
        return images

    return draw


def _noise(rng: np.random.Generator, count: int, shape: tuple[int, int, int]) -> Images:
    return rng.integers(0, 256, (count, *shape), dtype=np.uint8)


def _blurred(images: Images) -> Images:
    """Each pixel the mean of a square around it, an eighth of the image wide and at least three pixels."""
    size = max(3, round(min(images.shape[1:3]) / 8))
    blurred: Images = ndimage.uniform_filter(images, size=(1, size, size, 1), mode="nearest")
    return blurred
