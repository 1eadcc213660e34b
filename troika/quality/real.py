"""The real side of a judgement: held-out and training images as features and pixels, and what they score.

Computed once, for candidate, champion and self-test alike. A floor is what a generator would score that gives real
images training has seen: no better can be asked for. Decides nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from troika.datasets.contract import Dataset, Images, Labels, Split
from troika.quality.classification import accuracy_of_features
from troika.quality.evaluator import Evaluator
from troika.quality.inception import InceptionFeatures
from troika.quality.measures import Moments, distance_to, feature_scale, frechet_distance, total_variation
from troika.quality.memorisation import TrainingIndex
from troika.quality.random_features import RandomFeatures
from troika.quality.reference import Reference, to_levels
from troika.quality.sanity import look_of

Rows = NDArray[np.float32]

FOLDS = 20
_FLOOR_DRAWS = 5
_CHANCE_DRAWS = 200
_PIXEL_ROWS = 500
_RANDOM_COLUMNS = 64
_AUTHENTICITY_ROWS = 2000
_MOST_PIXELS = 256
_ROWS = 1000


@dataclass(frozen=True)
class RealSide:
    """Real images of one dataset, seen by one evaluator.

    Args:
        dataset: what the model was trained on.
        evaluator: trained on the same.
        batch_size: of generated samples; floors are for this many.
        largest: of a split, at most this many images are looked at, chosen once at random.
        inception: a network that was trained elsewhere, whose Fréchet distance is reported beside; None: none.
    """

    dataset: Dataset
    evaluator: Evaluator
    batch_size: int
    largest: int
    inception: InceptionFeatures | None = None

    @cached_property
    def reference(self) -> Reference:
        """How the evaluator sees held-out images; all that the live probe needs."""
        info = self.dataset.info
        features, labels = self._held_out_seen[0], self.held_out.labels
        return Reference(
            self.evaluator, features, labels, len(info.classes), info.levels, look_of(self.held_out.images)
        )

    @cached_property
    def _held_out_seen(self) -> tuple[Rows, Labels]:
        return self.evaluator.look_at(self.held_out.images)

    @cached_property
    def train(self) -> Split:
        """Training images, at most `largest`, in memory and in random order."""
        return rows_of(self.dataset.train, self.largest)

    @cached_property
    def held_out(self) -> Split:
        """Held-out images in the order of `reference.features`."""
        return rows_of(self.dataset.held_out, self.largest)

    @cached_property
    def _train_seen(self) -> tuple[Rows, Labels]:
        return self.evaluator.look_at(self.train.images)

    @property
    def train_features(self) -> Rows:
        """(T, D), by the evaluator."""
        return self._train_seen[0]

    @cached_property
    def to_train(self) -> Callable[[Moments], float]:
        """Fréchet distance to the training images."""
        return distance_to(Moments.of(self.train_features))

    @cached_property
    def folds(self) -> list[tuple[Callable[[Moments], float], float]]:
        """For each twentieth of the held-out images left out: the distance to the others, and its floor."""
        found = []
        parts = np.array_split(np.arange(len(self.reference.features)), min(FOLDS, len(self.reference.features)))
        for part in parts:
            distance = distance_to(Moments.of(np.delete(self.reference.features, part, axis=0)))
            found.append((distance, self._floor_of(distance)))
        return found

    def _floor_of(self, distance: Callable[[Moments], float]) -> float:
        """What as many training images as a batch has samples would score.

        The bias of a Fréchet distance falls with one by the number of rows. Where there are fewer training images
        than that, the line through the distances of all of them and of their halves is followed to the batch size.
        """
        found = float(np.mean([distance(moments) for moments in self._floor_moments]))
        rows = self._floor_moments[0].count
        if rows >= self.batch_size:
            return found
        halves = float(np.mean([distance(moments) for moments in self._half_moments]))
        slope = (halves - found) * rows
        return max(found + slope * (1 / self.batch_size - 1 / rows), 0.0)

    @cached_property
    def _half_moments(self) -> list[Moments]:
        """Of both halves of all training images, which are in random order."""
        middle = len(self.train_features) // 2
        return [Moments.of(part) for part in (self.train_features[:middle], self.train_features[middle:])]

    @cached_property
    def _floor_moments(self) -> list[Moments]:
        return [Moments.of(self.train_features[chosen]) for chosen in self._floor_draws]

    @cached_property
    def _floor_draws(self) -> list[NDArray[np.int64]]:
        """Rows of training images, as many as a batch has."""
        rng = np.random.default_rng(0)
        size = min(self.batch_size, len(self.train))
        count = _FLOOR_DRAWS if size < len(self.train) else 1
        return [rng.choice(len(self.train), size, replace=False) for _ in range(count)]

    @cached_property
    def copies(self) -> TrainingIndex:
        """Training images in feature space."""
        return TrainingIndex(self.train_features, self.reference.features)

    @cached_property
    def pixel_copies(self) -> TrainingIndex:
        """Training images in pixel space."""
        return TrainingIndex(pixels(self.train.images), pixels(self.held_out.images[:_PIXEL_ROWS]))

    @cached_property
    def random(self) -> RandomFeatures:
        """A second pair of eyes, which has learned nothing."""
        return RandomFeatures(self.dataset.info.shape)

    @cached_property
    def random_held_out(self) -> Rows:
        """(M, 512)."""
        return self.random.look_at(self.held_out.images)

    def random_distance(self, features: Rows) -> float:
        """Fréchet distance on some of the random features: their covariance is quick to take apart."""
        step = max(1, features.shape[1] // _RANDOM_COLUMNS)
        return frechet_distance(features[:, ::step], self.random_held_out[:, ::step])

    @cached_property
    def inception_distance(self) -> Callable[[Images], float]:
        """Fréchet distance of images (N, H, W, C) to held-out ones on the given network's features."""
        network = self.inception
        if network is None:
            raise ValueError("no network was given")
        distance = distance_to(Moments.of(network.look_at(self.held_out.images)))
        return lambda images: distance(Moments.of(network.look_at(images)))

    def classification_accuracy(self, random_features: Rows, labels: Labels) -> float:
        """Of held-out images, by a classifier that has seen these samples only."""
        return accuracy_of_features(
            random_features, labels, self.random_held_out, self.held_out.labels, len(self.dataset.info.classes)
        )

    @property
    def has_classes(self) -> bool:
        """Whether there is more than one class, so that telling them apart means something."""
        return len(self.dataset.info.classes) > 1

    @cached_property
    def evaluator_correct(self) -> int:
        """Held-out images whose class the evaluator sees."""
        return int((self._held_out_seen[1] == self.held_out.labels).sum())

    @cached_property
    def floors(self) -> dict[str, float]:
        """Figure -> what training images score as if they had been generated, in the mean of five draws."""
        draws: list[dict[str, float]] = []
        for chosen in self._floor_draws:
            images, labels, features = (
                self.train.images[chosen],
                self.train.labels[chosen],
                self.train_features[chosen],
            )
            figures = self.reference.figures_of(images, features, self._train_seen[1][chosen], None)
            random_features = self.random.look_at(to_levels(images, self.dataset.info.levels))
            figures["random_frechet_distance"] = self.random_distance(random_features)
            if self.inception is not None:
                figures["inception_frechet_distance"] = self.inception_distance(images)
            # Training images are not drawn twice.
            figures["repeated_images"] = 0.0
            if self.has_classes:
                figures["classification_accuracy"] = self.classification_accuracy(random_features, labels)
            draws.append(figures)
        found = {name: float(np.mean([draw[name] for draw in draws])) for name in draws[0]}
        if self.has_classes:
            found["label_agreement"] = self.evaluator_correct / len(self.held_out)
        # Of the held-out mix itself, drawn one by one; training images may have another.
        found["class_balance"] = self._balance_of_chance
        found["frechet_distance"] = self._floor_of(distance_to(Moments.of(self.reference.features)))
        found["frechet_distance_to_train"] = 0.0
        found |= {"memorisation": 0.5, "memorisation_pixels": 0.5, "duplicates": 0.01, "duplicates_pixels": 0.01}
        found["authenticity"] = self.copies.of(self.reference.features[:_AUTHENTICITY_ROWS]).authenticity
        return found

    @cached_property
    def _balance_of_chance(self) -> float:
        mix = np.bincount(self.held_out.labels, minlength=len(self.dataset.info.classes))
        rng = np.random.default_rng(0)
        draws = rng.multinomial(self.batch_size, mix / mix.sum(), size=_CHANCE_DRAWS)
        return float(np.mean([total_variation(draw, mix) for draw in draws]))

    @cached_property
    def units(self) -> dict[str, float]:
        """Figure -> what its limits relative to the floor count in, where that is not 1."""
        return {"frechet_distance": feature_scale(self.reference.features)}


def rows_of(split: Split, largest: int) -> Split:
    """At most `largest` images of a split in memory, in an order that is random but always the same."""
    order = np.random.default_rng(0).permutation(len(split))[:largest]
    # Files are read in their order.
    places = np.argsort(order)
    images = np.empty((len(order), *split.images.shape[1:]), np.uint8)
    for start in range(0, len(order), _ROWS):
        part = places[start : start + _ROWS]
        images[part] = split.images[order[part]]
    return Split(images, np.asarray(split.labels)[order])


def pixels(images: Images) -> Rows:
    """Images (N, H, W, C) as rows of at most 256 values, or C of them: large ones are shrunk by averaging."""
    height, width, channels = images.shape[1:]
    for factor in range(1, max(height, width) + 1):
        down, across = min(factor, height), min(factor, width)
        high, wide = height // down, width // across
        if high * wide * channels <= _MOST_PIXELS:
            break
    cut = images[:, : high * down, : wide * across]
    shape = (len(images), high, down, wide, across, channels)
    rows: Rows = cut.reshape(shape).mean(axis=(2, 4), dtype=np.float32).reshape(len(images), -1)
    return rows
