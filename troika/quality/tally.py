"""The figures of one generator: batch by batch into a tally, and out of it measures with intervals.

Every figure has an interval. Those of distances come from independent fresh batches and a t-interval:
resampling one batch (the bootstrap) adds bias to a Fréchet distance, so its interval can miss the truth. Shares
have Wilson's.
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from troika.datasets.contract import Images, Labels
from troika.errors import SamplesError
from troika.quality.gate import NOT_APPLICABLE, Measure
from troika.quality.measures import Moments, frechet_distance_at_infinity, t_interval, wilson_interval
from troika.quality.memorisation import Memorisation
from troika.quality.real import RealSide, pixels
from troika.quality.reference import to_levels
from troika.quality.sanity import problem_of

NOTES = {
    "label_agreement": "the evaluator sees the requested class",
    "frechet_distance": "to held-out images, on evaluator features",
    "frechet_distance_at_infinity": "the same, less the bias of finitely many samples",
    "frechet_distance_to_train": "to the images that training saw",
    "random_frechet_distance": "to held-out images, on random features: a second opinion",
    "inception_frechet_distance": "to held-out images, on features of a network that was trained elsewhere",
    "kernel_distance": "KID on evaluator features; equal distributions score 0 in the mean",
    "precision": "samples that lie among held-out images",
    "recall": "held-out images that lie among samples",
    "density": "how many held-out images samples lie among; above 1 is denser than real ones",
    "coverage": "held-out images that have a sample next to them",
    "classification_accuracy": "of held-out images, by a classifier that has seen samples only",
    "class_balance": "total variation to the held-out class mix",
    "memorisation": "how often a sample is nearer to training than a held-out image is, in features; 0.5 is usual",
    "memorisation_pixels": "the same in pixels",
    "duplicates": "samples as near to a training image as the closest 1 % of held-out ones, in features",
    "duplicates_pixels": "the same in pixels",
    "authenticity": "samples farther from training than training images from each other",
    "brightness_gap": "mean pixel against that of real images, share of the full range",
    "contrast_ratio": "standard deviation within an image, by that of real images",
    "repeated_images": "samples that are another one again, pixel by pixel",
    "constant_images": "samples whose pixels are all alike",
    "evaluator_accuracy": "of the judge itself, on held-out images",
}
"""Every figure there is, in the order of the report."""

_SHARES = {"label_agreement", "constant_images", "repeated_images"}
MAY_EXCEED_1 = {
    "frechet_distance",
    "frechet_distance_at_infinity",
    "frechet_distance_to_train",
    "random_frechet_distance",
    "inception_frechet_distance",
    "kernel_distance",
    "density",
    "contrast_ratio",
}
"""All other figures are shares, 0..1."""
_NEVER_NEGATIVE = set(NOTES) - {"kernel_distance"}
_BY_TRAINING_IMAGES = {
    "memorisation",
    "memorisation_pixels",
    "duplicates",
    "duplicates_pixels",
    "authenticity",
}
_NEEDS_CLASSES = ("label_agreement", "classification_accuracy", "class_balance", "evaluator_accuracy")
_MEMORISATION_ROWS = 1000
_PIXEL_ROWS = 500
_KEPT_PER_BATCH = 200
_SUSPICIOUS = 10
_SAME_PIXELS = 1.0
"""Training images that are nearer to each other than this, in pixel values 0 to 255, are alike."""


@dataclass(frozen=True)
class Suspicious:
    """Samples that lie nearest to a training image, in pixels, for what is near there; the most suspicious first.

    The distance alone would always name the simplest images, all of which are near to each other.
    """

    samples: Images
    """(S, H, W, C)."""
    neighbours: Images
    """(S, H, W, C): the nearest training image of each."""
    nearness: NDArray[np.float64]
    """(S,): distance to it, by its own distance to its nearest training image; 0 is a copy, 1 the usual."""


@dataclass(frozen=True)
class Kept:
    """Some of the samples, in the order drawn: of two generators that were asked alike, row i is of one latent."""

    images: Images
    """(N, H, W, C)."""
    asked: Labels
    """(N,): the labels asked for, of an unconditional generator too."""
    seen: Labels
    """(N,): the classes that the evaluator sees."""


class Tally:
    """Counts one generator's samples. Not for several threads."""

    def __init__(self, real: RealSide, *, conditional: bool, only: Collection[str] | None = None) -> None:
        """Start at none.

        Args:
            real: what samples are measured against.
            conditional: whether the generator follows labels.
            only: figures that must be there, to save the time of others; then no samples are kept either.
        """
        self._real = real
        self._only = only
        # With one class there is nothing to ask for.
        self.conditional = conditional and real.has_classes
        self.batches: dict[str, list[float]] = defaultdict(list)
        """Figure -> value of each batch."""
        self.moments: list[Moments] = []
        """Of each batch's features."""
        self.samples = 0
        classes = len(real.dataset.info.classes)
        self.confusion = np.zeros((classes, classes), np.int64)
        """(K, K): requested label by label seen; all in row 0 for an unconditional generator."""
        self._kept: list[tuple[Images, Labels, Labels]] = []
        self._nearest: list[tuple[float, NDArray[np.uint8], int]] = []

    def add(self, images: Images, labels: Labels) -> None:
        """Measure one fresh batch, asked for with these labels (N,).

        Raises:
            SamplesError: the images are not what the dataset's are.
        """
        real = self._real
        if problem := problem_of(images, real.dataset.info.shape, len(labels)):
            raise SamplesError(f"the generator gives no samples: {problem}")
        rounded = to_levels(images, real.dataset.info.levels)
        features, seen = real.evaluator.look_at(rounded)
        if not np.isfinite(features).all():
            raise SamplesError("the evaluator's features of the samples hold NaN or infinity")
        figures = real.reference.figures_of(images, features, seen, labels if self.conditional else None)
        moments = Moments.of(features)
        self.moments.append(moments)
        if self._wants("frechet_distance_to_train"):
            figures["frechet_distance_to_train"] = real.to_train(moments)
        if self._wants("frechet_distance_at_infinity"):
            figures["frechet_distance_at_infinity"] = frechet_distance_at_infinity(
                _equal_parts(features, 4), real.reference.features
            )
        figures |= self._by_other_eyes(images, rounded, labels)
        if self._wants("memorisation", "duplicates", "authenticity"):
            copies = real.copies.of(features[:_MEMORISATION_ROWS])
            figures["memorisation"], figures["duplicates"] = copies.auc, copies.duplicates
            if self._wants("authenticity"):
                figures["authenticity"] = copies.authenticity
        if self._wants("memorisation_pixels", "duplicates_pixels"):
            in_pixels = real.pixel_copies.of(pixels(rounded[:_PIXEL_ROWS]))
            figures["memorisation_pixels"], figures["duplicates_pixels"] = in_pixels.auc, in_pixels.duplicates
            if self._only is None:
                self._keep_suspicious(images, in_pixels)
        for name, value in figures.items():
            self.batches[name].append(value)
        np.add.at(self.confusion, (labels if self.conditional else np.zeros_like(labels), seen), 1)
        self.samples += len(images)
        if self._only is None:
            self._kept.append((images[:_KEPT_PER_BATCH], labels[:_KEPT_PER_BATCH], seen[:_KEPT_PER_BATCH]))

    def _wants(self, *names: str) -> bool:
        """Whether any of these figures is asked for."""
        return self._only is None or any(name in self._only for name in names)

    def _by_other_eyes(self, images: Images, rounded: Images, labels: Labels) -> dict[str, float]:
        """Figures of features that are not the evaluator's."""
        real = self._real
        found = {}
        if real.inception is not None and self._wants("inception_frechet_distance"):
            found["inception_frechet_distance"] = real.inception_distance(images)
        if self._wants("random_frechet_distance", "classification_accuracy"):
            random_features = real.random.look_at(rounded)
            found["random_frechet_distance"] = real.random_distance(random_features)
            if self.conditional:
                found["classification_accuracy"] = real.classification_accuracy(random_features, labels)
        return found

    def _keep_suspicious(self, images: Images, in_pixels: Memorisation) -> None:
        nearness = in_pixels.distances / np.maximum(in_pixels.spacing, _SAME_PIXELS)
        closest = np.argsort(nearness, kind="stable")[:_SUSPICIOUS]
        found = [(float(nearness[row]), images[row], int(in_pixels.nearest[row])) for row in closest]
        self._nearest = sorted(self._nearest + found, key=lambda entry: entry[0])[:_SUSPICIOUS]

    def part(self, batches: slice) -> "Tally":
        """Some of the batches alone, as far as a comparison needs them."""
        found = Tally(self._real, conditional=self.conditional)
        for name, values in self.batches.items():
            found.batches[name] = values[batches]
        found.moments = self.moments[batches]
        return found

    def measures(self) -> list[Measure]:
        """All figures with 95 % intervals, in the order of NOTES; at least two batches."""
        real = self._real
        found = []
        for name, note in NOTES.items():
            if name == "evaluator_accuracy" and real.has_classes:
                correct, total = real.evaluator_correct, len(real.held_out)
                low, high = wilson_interval(correct, total)
                found.append(
                    Measure(name=name, value=correct / total, low=low, high=high, note=note, by_samples=False)
                )
            elif name in _NEEDS_CLASSES and not real.has_classes:
                found.append(Measure(name=name, value=None, note=f"{NOT_APPLICABLE}: there is one class"))
            elif name in self.batches:
                found.append(self._measure(name, note))
            elif name in ("label_agreement", "classification_accuracy"):
                why = f"{NOT_APPLICABLE}: the model takes no label"
                found.append(Measure(name=name, value=None, note=why))
        return found

    def _measure(self, name: str, note: str) -> Measure:
        values = self.batches[name]
        mean = float(np.mean(values))
        if name in _SHARES:
            low, high = wilson_interval(round(mean * self.samples), self.samples)
        else:
            low, high = t_interval(values)
            low = max(low, 0.0) if name in _NEVER_NEGATIVE else low
            high = high if name in MAY_EXCEED_1 else min(high, 1.0)
        if name == "inception_frechet_distance" and self._real.inception is not None:
            note += f", {self._real.inception.digest[:19]}"
        looked, there = len(self._real.train), len(self._real.dataset.train)
        if name in _BY_TRAINING_IMAGES and looked < there:
            note += f"; {looked:,} of {there:,} training images were looked at"
        floor, unit = self._real.floors.get(name), self._real.units.get(name, 1.0)
        return Measure(name=name, value=mean, low=low, high=high, floor=floor, unit=unit, note=note)

    @property
    def kept(self) -> Kept:
        """The first images of every batch; at least one batch."""
        images, asked, seen = (np.concatenate(parts) for parts in zip(*self._kept, strict=True))
        return Kept(images, asked, seen)

    @property
    def suspicious(self) -> Suspicious:
        """Samples that look most like copies."""
        neighbours = self._real.train.images[[row for *_, row in self._nearest]]
        nearness = np.array([value for value, *_ in self._nearest])
        return Suspicious(np.stack([image for _, image, _ in self._nearest]), neighbours, nearness)


def _equal_parts(rows: NDArray[np.float32], parts: int) -> list[NDArray[np.float32]]:
    size = len(rows) // parts
    return [rows[start * size : (start + 1) * size] for start in range(parts)]
