"""The images of a report, as values for its page: samples side by side, class by class, the most suspicious."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from troika.datasets.contract import Images
from troika.pictures import tile_uri
from troika.quality.axes import Point, Range, figure_axis
from troika.quality.measures import wilson_interval
from troika.quality.real import RealSide
from troika.quality.tally import Tally

SHOWN_CLASSES = 20
"""With samples; of more classes those that the evaluator recognises least often."""
LARGEST = 64
"""CSS pixels of an image; a larger one is shrunk."""

_STRIP = 346
"""CSS pixels of a row of samples; three of them lie side by side, one is as wide as a phone."""
_FREE_ROWS = 6
"""Rows of samples where no label is asked for."""
_MISREAD = 4
_PAIRS = 20

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """How many images a page holds, and how good they are."""

    share: float
    """Of the images that it would hold."""
    lossless: bool

    def of(self, count: int) -> int:
        """How many of so many."""
        return max(1, round(self.share * count))

    def tiles(self, images: Images) -> list[str]:
        """Each as a `data:` URI."""
        return [tile_uri(image, lossless=self.lossless, largest=LARGEST) for image in images]


@dataclass(frozen=True)
class Strip:
    """One row of the gallery: column by column of the same latents and label."""

    name: str
    ours: list[str]
    theirs: list[str]
    """None of them without a champion."""
    real: list[str]


@dataclass(frozen=True)
class ClassRow:
    """What became of one class."""

    name: str
    count: int
    """Samples asked for; of a model that takes no label, samples seen as it."""
    share: float | None
    """Of those asked for, how many the evaluator sees as it; without labels, of all samples those seen as it.
    None: it was not asked for."""
    low: float
    high: float
    """95 % interval, Wilson's."""
    axis: str
    others: list[tuple[str, int]]
    """What else was seen, the most frequent first."""
    tiles: list[tuple[str, str]]
    """Samples, and as which class each is seen: those seen as another first."""


@dataclass(frozen=True)
class Pair:
    """A sample and the training image nearest to it."""

    sample: str
    neighbour: str
    nearness: float
    """See tally.py: 0 is a copy."""


def tile_size(pixels: int) -> int:
    """How wide an image is shown: about 42 CSS pixels, and a whole multiple of its own."""
    pixels = min(pixels, LARGEST)
    return pixels * max(1, round(42 / pixels))


def columns_of(tile: int, *, alone: bool = False) -> int:
    """Images in a row of samples; more if no champion's stand beside them."""
    fit = max(3, min(10, (_STRIP + 2) // (tile + 2)))
    return fit + fit // 2 if alone else fit


def shown_rows(ours: Tally, theirs: Tally | None, columns: int) -> list[tuple[int | None, Rows]]:
    """Which of the kept samples a gallery shows: (class, rows of `kept`), no class where none was asked for.

    The rows are the same for both, which asked alike: never chosen by what one of them happened to show.
    """
    asked = ours.kept.asked
    if not (ours.conditional or (theirs is not None and theirs.conditional)):
        rows = np.arange(min(len(asked), _FREE_ROWS * columns))
        return [(None, rows[start : start + columns]) for start in range(0, len(rows), columns)]
    classes = len(ours.confusion)
    order = np.arange(classes)
    if classes > SHOWN_CLASSES and ours.conditional:
        counts = ours.confusion.sum(axis=1)
        agreed = np.where(counts, ours.confusion.diagonal() / np.maximum(counts, 1), np.inf)
        order = np.sort(np.argsort(agreed, kind="stable")[:SHOWN_CLASSES])
    return [(int(label), np.flatnonzero(asked == label)[:columns]) for label in order[:SHOWN_CLASSES]]


def gallery(ours: Tally, theirs: Tally | None, real: RealSide, plan: Plan, columns: int) -> list[Strip]:
    """Samples of challenger and champion on the same latents and labels, and real images."""
    names, held_out = real.dataset.info.classes, real.held_out
    strips = []
    for label, rows in shown_rows(ours, theirs, columns):
        if not len(rows):
            continue
        examples = np.arange(len(held_out)) if label is None else np.flatnonzero(held_out.labels == label)
        if label is None:
            examples = np.roll(examples, -int(rows[0]))
        strips.append(
            Strip(
                name=f"{rows[0] + 1}\N{EN DASH}{rows[-1] + 1}" if label is None else names[label],
                ours=plan.tiles(ours.kept.images[rows]),
                theirs=[] if theirs is None else plan.tiles(theirs.kept.images[rows]),
                real=plan.tiles(held_out.images[examples[: max(1, columns // 2)]]),
            )
        )
    return strips


def class_rows(tally: Tally, real: RealSide, plan: Plan) -> tuple[list[ClassRow], Range]:
    """Every class, in the dataset's order, and what their axes span."""
    names = real.dataset.info.classes
    counts = tally.confusion.sum(axis=1) if tally.conditional else np.full(len(names), tally.samples)
    hits = tally.confusion.diagonal() if tally.conditional else tally.confusion[0]
    intervals = [wilson_interval(int(hit), max(int(count), 1)) for hit, count in zip(hits, counts, strict=True)]
    mix = np.bincount(real.held_out.labels, minlength=len(names)) / len(real.held_out)
    ends = [end for interval, count in zip(intervals, counts, strict=True) if count for end in interval]
    ends += [] if tally.conditional else mix.tolist()
    domain = (float(np.floor(min(ends) * 20) / 20), float(np.ceil(max(ends) * 20) / 20))
    kept = tally.kept
    rows = []
    for label, name in enumerate(names):
        share = float(hits[label] / counts[label]) if counts[label] else None
        low, high = intervals[label]
        seen_as = tally.confusion[label].copy() if tally.conditional else np.zeros(len(names), np.int64)
        seen_as[label] = 0
        mistaken = [int(other) for other in np.argsort(-seen_as, kind="stable")[:3] if seen_as[other]]
        of_class = np.flatnonzero((kept.asked if tally.conditional else kept.seen) == label)
        # Those that went wrong are worth a look.
        of_class = of_class[np.argsort(kept.seen[of_class] == label, kind="stable")]
        shown = of_class[: plan.of(_MISREAD)] if plan.share == 1 or len(names) <= SHOWN_CLASSES else of_class[:0]
        rows.append(
            ClassRow(
                name=name,
                count=int(counts[label]) if tally.conditional else int(hits[label]),
                share=share,
                low=low,
                high=high,
                axis=""
                if share is None
                else figure_axis(
                    f"{name}: {share:.3f}, interval {low:.3f} to {high:.3f}",
                    Point(share, low, high),
                    floor=None if tally.conditional else float(mix[label]),
                    domain=domain,
                    ticks=False,
                ),
                others=[(names[other], int(seen_as[other])) for other in mistaken],
                tiles=list(
                    zip(
                        plan.tiles(kept.images[shown]),
                        [names[seen] for seen in kept.seen[shown]],
                        strict=True,
                    )
                ),
            )
        )
    return rows, domain


def commonest_confusions(tally: Tally, names: tuple[str, ...]) -> list[tuple[str, str, int]]:
    """(asked, seen, how often), the most frequent first."""
    wrong = tally.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    places = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(names[asked], names[seen], int(wrong[asked, seen])) for asked, seen in places if wrong[asked, seen]]


def confusion_picture(tally: Tally) -> str:
    """Requested class (down) by class seen (across), darker where more; a pixel each."""
    shares = tally.confusion / np.maximum(tally.confusion.sum(axis=1, keepdims=True), 1)
    # A root, so that a few per cent show.
    depth = np.sqrt(shares)[:, :, np.newaxis]
    white, blue = np.array([255.0, 255.0, 255.0]), np.array([0.0, 68.0, 120.0])
    return tile_uri(np.rint(white + depth * (blue - white)).astype(np.uint8), largest=1000)


def pairs(tally: Tally, plan: Plan) -> list[Pair]:
    """Samples that look most like copies, beside what they would be copies of."""
    found = tally.suspicious
    count = plan.of(len(found.samples))
    return [
        Pair(sample, neighbour, float(nearness))
        for sample, neighbour, nearness in zip(
            plan.tiles(found.samples[:count]),
            plan.tiles(found.neighbours[:count]),
            found.nearness[:count],
            strict=True,
        )
    ]
