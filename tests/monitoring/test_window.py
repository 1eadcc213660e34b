"""Windows of the probe that are larger than the held-out set: a healthy model stays healthy."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from worlds import evaluator

from troika.quality.measures import labels_to_ask_for, t_interval
from troika.quality.reference import Reference, expected_ranges
from troika.serving.probe import _Window

CLASSES, HELD_OUT, SIZE, BATCHES = 10, 60, 200, 10


def images_of(labels: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.uint8]:
    """Return images that show their class: its brightness, and a little noise."""
    return (labels[:, None, None, None] * 24 + random.integers(0, 24, (len(labels), 4, 3, 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def reference() -> Reference:
    random = np.random.default_rng(0)
    labels = random.permutation(np.repeat(np.arange(CLASSES), HELD_OUT // CLASSES))
    judge = evaluator()
    return Reference(judge, judge.look_at(images_of(labels, random))[0], labels, CLASSES, 256)


def window_of(reference: Reference, random: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Fill a window as the probe does, in a random order of labels, and take it."""
    labels = labels_to_ask_for(reference.labels, SIZE, random)
    window = _Window([images_of(labels, random)], [labels])
    taken = window.take(SIZE, np.bincount(labels, minlength=CLASSES), random)
    assert taken is not None
    images, shown = taken
    assert shown is not None
    return images, shown


def expected(reference: Reference) -> dict[str, tuple[float, float]]:
    """Return the ranges that a verdict on the same model promises: one batch after the other, as the gate asks."""
    random = np.random.default_rng(1)
    batches = []
    for _ in range(BATCHES):
        labels = labels_to_ask_for(reference.labels, SIZE, random)
        batches.append(reference.figures(images_of(labels, random), labels))
    measures: list[dict[str, Any]] = []
    for name in batches[0]:
        values = [batch[name] for batch in batches]
        low, high = t_interval(values)
        measures.append({"name": name, "value": float(np.mean(values)), "low": low, "high": high})
    return expected_ranges({"params": {"samples": {"batches": BATCHES}}, "measures": measures})


@pytest.mark.parametrize("figure", ["recall", "coverage", "density", "precision", "kernel_distance"])
def test_a_window_larger_than_the_held_out_set_is_measured_as_the_gate_measured(
    reference: Reference, figure: str
) -> None:
    low, high = expected(reference)[figure]
    images, labels = window_of(reference, np.random.default_rng(2))
    assert low <= reference.figures(images, labels)[figure] <= high


def test_sorted_by_class_the_same_images_would_look_bad(reference: Reference) -> None:
    """The control: these figures see what the order of a window does."""
    ranges = expected(reference)
    images, labels = window_of(reference, np.random.default_rng(2))
    order = np.argsort(labels, kind="stable")
    found = reference.figures(images[order], labels[order])
    assert found["recall"] < ranges["recall"][0]
    assert found["coverage"] < ranges["coverage"][0]


def test_what_is_measured_of_a_window_has_every_class(reference: Reference) -> None:
    _, labels = window_of(reference, np.random.default_rng(3))
    first = np.bincount(labels[:HELD_OUT], minlength=CLASSES)
    assert first.min() >= 1
    assert first.max() <= 3 * HELD_OUT // CLASSES


def test_what_is_left_of_a_window_stays_for_the_next(reference: Reference) -> None:
    random = np.random.default_rng(4)
    labels = labels_to_ask_for(reference.labels, SIZE, random)
    images = images_of(labels, random)
    window = _Window([images, images[:30]], [labels, labels[:30]])
    mix = np.bincount(labels, minlength=CLASSES)
    assert window.take(SIZE, mix, random) is not None
    assert sum(map(len, window.images)) == sum(map(len, window.labels)) == 30
    assert window.take(SIZE, mix, random) is None
