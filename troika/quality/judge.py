"""The judge: fresh samples of an exported generator, held against real images that training has not seen.

Every figure has an interval. Those of distances come from independent fresh batches and a t-interval: resampling
one batch (the bootstrap) adds bias to a Fréchet distance, so its interval can miss the truth.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from troika.datasets.checks import is_constant
from troika.datasets.contract import Dataset, Images, Labels
from troika.params import Params
from troika.quality.evaluator import Evaluator
from troika.quality.gate import NOT_APPLICABLE, Measure
from troika.quality.generator import OnnxGenerator
from troika.quality.measures import (
    frechet_distance,
    labels_to_ask_for,
    t_interval,
    total_variation,
    wilson_interval,
)


class SampleParams(Params):
    """How many samples are drawn."""

    batches: int = Field(ge=2)
    batch_size: int = Field(ge=100)
    seed: int = Field(ge=0)


@dataclass(frozen=True)
class Judged:
    """Figures, and what the report shows of them."""

    measures: list[Measure]
    confusion: NDArray[np.int64]
    """(K, K): requested label by label seen; all in row 0 for an unconditional generator."""
    gallery: Images
    """Ten samples of each class, class by class (or the first hundred)."""
    gallery_labels: Labels


def to_levels(images: Images, levels: int) -> Images:
    """Images rounded to the number of evenly spaced grey levels that the real ones have (2..256)."""
    if not 2 <= levels < 256:
        return images
    step = 255 / (levels - 1)
    rounded: Images = np.rint(np.rint(images / step) * step).astype(np.uint8)
    return rounded


def measure(generator: OnnxGenerator, dataset: Dataset, evaluator: Evaluator, samples: SampleParams) -> Judged:
    """Draw `batches` x `batch_size` samples and measure them.

    Requested labels follow the held-out split's class counts, so that its mix is the right answer for a
    conditional generator and the target of an unconditional one.
    """
    held_out, train, levels = dataset.held_out, dataset.train, dataset.info.levels
    classes = len(dataset.info.classes)
    real, real_classes = evaluator.look_at(held_out.images)
    real_train, _ = evaluator.look_at(train.images)
    mix = np.bincount(held_out.labels, minlength=classes)

    rng = np.random.default_rng(samples.seed)
    distances, train_distances, balances = [], [], []
    confusion = np.zeros((classes, classes), np.int64)
    constant = 0
    kept_images: list[Images] = []
    kept_labels: list[Labels] = []
    for batch in range(samples.batches):
        seeds = samples.seed + np.arange(batch * samples.batch_size, (batch + 1) * samples.batch_size)
        labels = labels_to_ask_for(held_out.labels, samples.batch_size, rng)
        images = generator.draw(seeds, labels)
        constant += int(is_constant(images).sum())
        features, seen = evaluator.look_at(to_levels(images, levels))
        distances.append(frechet_distance(features, real))
        train_distances.append(frechet_distance(features, real_train))
        balances.append(total_variation(np.bincount(seen, minlength=classes), mix))
        np.add.at(confusion, (labels if generator.conditional else np.zeros_like(labels), seen), 1)
        kept_images.append(images[:_KEPT_PER_BATCH])
        kept_labels.append((labels if generator.conditional else seen)[:_KEPT_PER_BATCH])
    total = samples.batches * samples.batch_size
    correct = int((real_classes == held_out.labels).sum())
    real_agreement = correct / len(held_out)

    measures = [
        _agreement(confusion, total, real_agreement)
        if generator.conditional
        else Measure(name="label_agreement", value=None, note=f"{NOT_APPLICABLE}: the model takes no label"),
        _from_batches(
            "frechet_distance",
            distances,
            frechet_distance(real_train, real),
            "to held-out images, on evaluator features",
        ),
        _from_batches("frechet_distance_to_train", train_distances, 0.0, "to the images that training saw"),
        _from_batches("class_balance", balances, 0.0, "total variation to the held-out class mix"),
        _share("constant_images", constant, total, 0.0, "samples whose pixels are all alike"),
        _share("evaluator_accuracy", correct, len(held_out), None, "of the judge itself, on held-out images"),
    ]
    gallery, gallery_labels = _gallery(np.concatenate(kept_images), np.concatenate(kept_labels), classes)
    return Judged(measures, confusion, gallery, gallery_labels)


_KEPT_PER_BATCH = 200


def _agreement(confusion: NDArray[np.int64], total: int, real: float) -> Measure:
    agreed = int(np.trace(confusion))
    low, high = wilson_interval(agreed, total)
    note = "the evaluator sees the requested class"
    return Measure(name="label_agreement", value=agreed / total, low=low, high=high, floor=real, note=note)


def _share(name: str, count: int, total: int, floor: float | None, note: str) -> Measure:
    low, high = wilson_interval(count, total)
    return Measure(name=name, value=count / total, low=low, high=high, floor=floor, note=note)


def _from_batches(name: str, values: list[float], floor: float, note: str) -> Measure:
    low, high = t_interval(values)
    return Measure(name=name, value=float(np.mean(values)), low=max(low, 0.0), high=high, floor=floor, note=note)


def _gallery(images: Images, labels: Labels, classes: int) -> tuple[Images, Labels]:
    """Up to ten images of each class, class by class; a class that never came leaves a black row."""
    columns = 10
    rows = []
    for label in range(classes):
        found = images[np.flatnonzero(labels == label)[:columns]]
        rows.append(np.concatenate([found, np.zeros((columns - len(found), *images.shape[1:]), np.uint8)]))
    return np.concatenate(rows), np.repeat(np.arange(classes), columns)
