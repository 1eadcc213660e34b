"""A source of images -> a dataset folder: read once, decide, sort, write; memory does not grow with the pixels.

Every image passes by once: it is parked on disk (spool.py), and some 250 bytes are noted of it (facts.py). Once
all are known it is decided which are left out and which split each of the others belongs to, and the parked images
are written in that order.
"""

import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from troika.datasets.checks import Indices, check_set, find_copies, find_near_copies
from troika.datasets.contract import SPLITS, DatasetInfo, Images, SplitName
from troika.datasets.facts import Facts
from troika.datasets.problems import Findings
from troika.datasets.sources.source import ColourFoundError, ImageSource, bounded_map
from troika.datasets.splits import check_every_class_everywhere, key_order, split_numbers
from troika.datasets.spool import Spool
from troika.datasets.writing import SplitWriter, check_not_empty, finish
from troika.errors import DatasetError
from troika.params import Params


class SplitParams(Params):
    """The part of section `prepare_data` that decides on checks, splits and files."""

    validation_share: float = Field(gt=0, lt=1)
    test_share: float = Field(gt=0, lt=1)
    max_refused_share: float = Field(ge=0, le=1)
    near_duplicate_distance: float = Field(ge=0, le=0.5)
    max_class_ratio: float = Field(ge=1)
    shard_megabytes: int = Field(gt=0)


@dataclass(frozen=True)
class Prepared:
    """What is known of all images of a source."""

    info: DatasetInfo
    facts: Facts
    labels: NDArray[np.int64]
    splits: NDArray[np.int8]
    """Position in SPLITS; -1 for an image that is left out."""
    sizes: Counter[tuple[int, int]]
    total: int


def prepare(
    folder: Path,
    source: ImageSource,
    params: SplitParams,
    findings: Findings,
    listed_in: Path,
) -> Prepared:
    """Write a dataset into the empty folder `folder`.

    Args:
        folder: exists; what is parked on the way lies in it, too, and is removed again.
        source: an open source.
        params: limits and shares.
        findings: filled with what is found, also where this fails.
        listed_in: where the caller lists them, for messages.

    Raises:
        DatasetError: a policy says so, too much is left out, a class has no image in a split, or the disk is too
            small.
    """
    findings.notes += source.remarks
    findings.left_out += source.left_out
    before = (len(findings.quarantined), findings.warning_counts.copy(), len(findings.warnings))
    with suppress(ColourFoundError):
        return _prepare(folder, source, params, findings, listed_in)
    # Rare: the look at some headers has met grey images only. Everything anew, in RGB.
    shutil.rmtree(folder / _SPOOL, ignore_errors=True)
    del findings.quarantined[before[0] :], findings.warnings[before[2] :]
    findings.warning_counts = before[1]
    return _prepare(folder, _in_colour(source), params, findings, listed_in)


_SPOOL = ".spool"
_LOOK = 2**20


def _in_colour(source: ImageSource) -> ImageSource:
    assert source.reopen_in_colour is not None  # noqa: S101 - only such a source raises ColourFoundError
    return source.reopen_in_colour()


def _prepare(
    folder: Path, source: ImageSource, params: SplitParams, findings: Findings, listed_in: Path
) -> Prepared:
    image_bytes = int(np.prod(source.shape))
    _check_room(folder, source.count * image_bytes)
    facts, labels = Facts.empty(source.count, source.shape[2]), np.full(source.count, -1, np.int64)
    sizes: Counter[tuple[int, int]] = Counter()
    with Spool(folder / _SPOOL, source.count * image_bytes) as spool:
        for block in source.blocks(folder):
            for finding in block.findings:
                findings.add(finding)
            sizes.update(block.sizes)
            facts.put(block.indices, block.facts)
            labels[block.indices] = block.labels
            spool.add(block.images, block.facts.keys, block.indices)

        splits = np.full(source.count, -1, np.int8)
        read = np.flatnonzero(labels >= 0)
        kept = find_copies(source, facts, labels, read, findings)
        given = None if source.given is None else source.given[kept]
        splits[kept] = split_numbers(facts.keys[kept], params.validation_share, params.test_share, given)
        kept = kept[key_order(facts.keys, labels, kept)]
        dropped = find_near_copies(source, facts, labels, splits, kept, params.near_duplicate_distance, findings)
        splits[dropped] = -1
        findings.check_share(source.count, params.max_refused_share, lambda: listed_in)
        classes = check_set(source, facts, labels, splits, params.max_class_ratio, findings)
        check_not_empty({name: int((splits == number).sum()) for number, name in enumerate(SPLITS)})
        check_every_class_everywhere(splits, labels, classes, given=source.given is not None)
        info = _write(folder, spool, replace(source, classes=classes), facts, labels, splits, params)
    (folder / _SPOOL).rmdir()
    return Prepared(info, facts, labels, splits, sizes, source.count)


def _note_levels(seen: NDArray[np.bool_], images: NDArray[np.uint8]) -> None:
    """Mark the levels of `images` in `seen`, bool (256,); stops looking once there is nothing new to see."""
    flat = images.reshape(-1)
    for start in range(0, len(flat), _LOOK):
        if seen.all():
            return
        seen |= np.bincount(flat[start : start + _LOOK], minlength=256) > 0


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if 2 * size > free:
        raise DatasetError(
            f"preparing these images needs {2 * size / 1e9:,.1f} GB in {folder.parent}, where "
            f"{free / 1e9:,.1f} GB are free; make room, or write elsewhere"
        )


def _write(
    folder: Path,
    spool: Spool,
    source: ImageSource,
    facts: Facts,
    labels: NDArray[np.int64],
    splits: NDArray[np.int8],
    params: SplitParams,
) -> DatasetInfo:
    counts = {name: int((splits == number).sum()) for number, name in enumerate(SPLITS)}
    image_bytes = int(np.prod(source.shape))
    shard_images = max(1, params.shard_megabytes * 10**6 // image_bytes)
    if max(counts.values()) <= shard_images:
        shard_images = 0
    order: dict[SplitName, list[NDArray[np.int64]]] = {name: [] for name in SPLITS}
    seen = np.zeros(256, np.bool_)

    def sort(bucket: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> list[tuple[SplitName, Images, Indices]]:
        """For each split its images of a bucket, in order, and their places in the source."""
        images, members = bucket
        rows = np.flatnonzero(splits[members] >= 0)
        rows = rows[key_order(facts.keys, labels, members[rows])]
        each = [(name, rows[splits[members[rows]] == number]) for number, name in enumerate(SPLITS)]
        return [(name, images[mine], members[mine]) for name, mine in each]

    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(SplitWriter(folder / name, counts[name], source.shape, shard_images))
            for name in SPLITS
        }
        # A thread sorts one range of keys while the one before is written.
        pool = stack.enter_context(ThreadPoolExecutor(1))
        for parts in bounded_map(pool, sort, spool.buckets(source.shape), most=2):
            for name, images, members in parts:
                writers[name].add(images)
                order[name].append(members)
                if name == "train":
                    _note_levels(seen, images)
    ordered = {name: np.concatenate(parts) if parts else np.empty(0, np.int64) for name, parts in order.items()}
    return finish(
        folder,
        name=source.origin.kind,
        source=source.description,
        origin=source.origin,
        shape=source.shape,
        classes=source.classes,
        keys={name: facts.keys[ordered[name]] for name in SPLITS},
        labels={name: labels[ordered[name]] for name in SPLITS},
        levels=int(seen.sum()),
        shard_images=shard_images,
    )
