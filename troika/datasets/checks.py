"""Which images are left out because of others or of themselves, and what is wrong with the set as a whole.

Works on what was noted of the images (facts.py), not on pixels; files that cannot be decoded are decoding.py's.
"""

import numpy as np
from numpy.typing import NDArray

from troika.datasets.contract import SPLITS
from troika.datasets.facts import Facts, is_constant
from troika.datasets.near_duplicates import Neighbourhood
from troika.datasets.problems import Finding, Findings
from troika.datasets.sources.source import ImageSource

__all__ = ["check_set", "find_copies", "find_near_copies", "is_constant"]

Indices = NDArray[np.int64]


def find_copies(source: ImageSource, facts: Facts, labels: Indices, read: Indices, findings: Findings) -> Indices:
    """Note constant images, repeated ones, and one picture under several labels; gives what is kept of `read`."""

    def note(index: int, problem: str, detail: str) -> None:
        name = source.name_of(index)
        findings.add(Finding(index, name, source.classes[labels[index]], problem, detail))

    constant = read[facts.constant[read]]
    for index in constant.tolist():
        low, high = facts.lowest[index], facts.highest[index]
        levels = str(low) if low == high else f"between {low} and {high}, by channel"
        note(index, "constant", f"all pixels are alike: {levels}")
    dropped = set(constant.tolist()) if findings.quarantines("constant") else set()
    for group in _equal(facts, read):
        if facts.constant[group[0]]:
            continue
        names = sorted({source.classes[labels[index]] for index in group})
        if len(names) > 1:
            for index in group:
                note(index, "contradictory_labels", f"the same picture is labelled {' and '.join(names)}")
            dropped.update(group if findings.quarantines("contradictory_labels") else ())
        else:
            for index in group[1:]:
                note(index, "duplicate", f"same as {source.name_of(group[0])}")
            dropped.update(group[1:] if findings.quarantines("duplicate") else ())
    return np.array([index for index in read.tolist() if index not in dropped], np.int64) if dropped else read


def _equal(facts: Facts, read: Indices) -> list[list[int]]:
    """Groups of images with the same key, two at least, each in the source's order."""
    words = facts.keys[read].view(">u8")
    order = np.lexsort((read, *words.T))
    same = (words[order[1:]] == words[order[:-1]]).all(axis=1)
    groups: list[list[int]] = []
    for place in np.flatnonzero(same).tolist():
        index, following = int(read[order[place]]), int(read[order[place + 1]])
        if groups and groups[-1][-1] == index:
            groups[-1].append(following)
        else:
            groups.append([index, following])
    return sorted(groups)


def find_near_copies(
    source: ImageSource,
    facts: Facts,
    labels: Indices,
    splits: NDArray[np.int8],
    kept: Indices,
    distance: float,
    findings: Findings,
) -> Indices:
    """Note pictures of one class that are almost the same; gives those that are left out.

    Across splits the copy in the less precious one goes: test stays before validation before train, so figures on
    held-out images stay comparable. Within a split the one with the smaller key stays.

    Args:
        source: for names.
        facts: of all images.
        labels: of all images.
        splits: position in SPLITS of all images.
        kept: those that are looked at, in the order of their keys, so that the result depends on no other order.
        distance: between thumbnails, 0 (off) to 0.5.
        findings: what is found is added.
    """
    if distance == 0:
        return kept[:0]

    def note(index: int, problem: str, other: int, length: float) -> None:
        where = SPLITS[splits[other]]
        detail = f"almost the same as {source.name_of(other)} in {where}, at a distance of {length:.3f}"
        findings.add(Finding(index, source.name_of(index), source.classes[labels[index]], problem, detail))

    dropped: set[int] = set()
    precious = [SPLITS.index("test"), SPLITS.index("validation"), SPLITS.index("train")]
    for rank, less in enumerate(precious[1:], start=1):
        more = kept[np.isin(splits[kept], precious[:rank])]
        near = Neighbourhood(facts.thumbnails, more, distance, labels).nearest(kept[splits[kept] == less])
        for index, (other, length) in sorted(near.items()):
            note(index, "leakage", other, length)
        dropped.update(near if findings.quarantines("leakage") else ())
    rest = np.array([index for index in kept.tolist() if index not in dropped], np.int64) if dropped else kept
    place = {int(index): number for number, index in enumerate(rest)}
    for number in range(len(SPLITS)):
        mine = rest[splits[rest] == number]
        near = Neighbourhood(facts.thumbnails, mine, distance, labels).nearest(mine)
        later = {index: found for index, found in near.items() if place[found[0]] < place[index]}
        for index, (other, length) in sorted(later.items()):
            note(index, "near_duplicate", other, length)
        dropped.update(later if findings.quarantines("near_duplicate") else ())
    return np.array(sorted(dropped), np.int64)


def check_set(
    source: ImageSource,
    facts: Facts,
    labels: Indices,
    splits: NDArray[np.int8],
    max_class_ratio: float,
    findings: Findings,
) -> tuple[str, ...]:
    """Note what is wrong with the whole of what is kept; gives the classes that have images.

    Where a class is left out, `labels` are numbered anew, in place.
    """
    kept = np.flatnonzero(splits >= 0)
    counts = np.bincount(labels[kept], minlength=len(source.classes))
    classes = source.classes
    if len(kept) and not counts.all():
        empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
        why = next((entry for entry in findings.quarantined if entry.label in empty), None)
        reason = f" ({why.name}: {why.problem}: {why.detail})" if why else ""
        findings.add_of_set("empty_class", f"no usable image of class {', '.join(empty)}{reason}")
        numbers = np.cumsum(counts > 0) - 1
        labels[kept] = numbers[labels[kept]]
        classes = tuple(name for name, count in zip(classes, counts, strict=True) if count)
        counts = counts[counts > 0]
    if len(counts) and counts.max() > max_class_ratio * counts.min() > 0:
        large, small = int(counts.argmax()), int(counts.argmin())
        findings.add_of_set(
            "class_imbalance",
            f"class {classes[large]} has {counts[large]:,} images, {classes[small]} only {counts[small]:,}; "
            f"more than max_class_ratio = {max_class_ratio:g} times as many",
        )
    if len(kept):
        low, high = int(facts.lowest[kept].min()), int(facts.highest[kept].max())
        if high - low < 32:
            findings.add_of_set(
                "value_range",
                f"the values of all images lie in {low}..{high}; images fill 0..255, so scale them",
            )
    return classes
