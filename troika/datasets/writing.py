"""Write a dataset folder, image block by image block, in the form that contract.py describes.

Never holds more than a block in memory. Does not decide on order or splits.
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from troika.datasets.contract import (
    SPLITS,
    Dataset,
    DatasetInfo,
    Images,
    Labels,
    Origin,
    Split,
    SplitName,
    content_hash,
    image_files,
)
from troika.datasets.keys import Keys, keys_of
from troika.errors import DatasetError
from troika.folders import replace_folder


class SplitWriter:
    """Appends images to the files of one split; a context manager that closes them."""

    def __init__(self, folder: Path, count: int, shape: tuple[int, int, int], shard_images: int) -> None:
        """`count` images of `shape` will come, `shard_images` into each file (0: all into one)."""
        folder.mkdir()
        self._folder, self._shape = folder, shape
        self._names = image_files(count, shard_images)
        step = shard_images if len(self._names) > 1 else count
        self._sizes = [min(step, count - number * step) for number in range(len(self._names))]
        self._number = -1
        self._room = 0
        self._file: BinaryIO | None = None

    def add(self, images: Images) -> None:
        """The next images, uint8 (n, H, W, C)."""
        while len(images):
            if self._room == 0:
                self._next_file()
            now = images[: self._room]
            assert self._file is not None  # noqa: S101 - _next_file has opened it
            self._file.write(np.ascontiguousarray(now).data)
            self._room -= len(now)
            images = images[len(now) :]

    def _next_file(self) -> None:
        self._close()
        self._number += 1
        self._room = self._sizes[self._number]
        self._file = (self._folder / self._names[self._number]).open("wb")
        header = {"descr": "|u1", "fortran_order": False, "shape": (self._room, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)  # type: ignore[no-untyped-call]

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


def finish(
    folder: Path,
    *,
    name: str,
    source: str,
    origin: Origin,
    shape: tuple[int, int, int],
    classes: tuple[str, ...],
    keys: Mapping[SplitName, Keys],
    labels: Mapping[SplitName, Labels],
    levels: int,
    shard_images: int,
) -> DatasetInfo:
    """Write what stands beside the images: labels and dataset.json."""
    for split in SPLITS:
        np.save(folder / split / "labels.npy", np.ascontiguousarray(labels[split], np.int64))
    info = DatasetInfo(
        name=name,
        source=source,
        origin=origin,
        shape=shape,
        classes=classes,
        counts={split: len(labels[split]) for split in SPLITS},
        levels=levels,
        shard_images=shard_images,
        content_hash=content_hash(shape, classes, keys, labels),
    )
    (folder / "dataset.json").write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return info


def check_not_empty(counts: Mapping[SplitName, int]) -> None:
    """Raise DatasetError if a split has no image."""
    empty = [split for split in SPLITS if counts[split] == 0]
    if empty:
        raise DatasetError(f"no image left for {', '.join(empty)}; give more images or larger shares")


def write_dataset(
    folder: Path,
    *,
    name: str,
    source: str,
    classes: tuple[str, ...],
    splits: Mapping[SplitName, Split],
    shard_images: int = 0,
) -> Dataset:
    """Write splits that are in memory as a dataset folder, whole or not at all, and open it.

    Raises:
        DatasetError: a split is empty.
    """
    check_not_empty({split: len(splits[split]) for split in SPLITS})
    height, width, channels = splits["train"].images.shape[1:]
    shape = (height, width, channels)
    with replace_folder(folder) as new:
        for split in SPLITS:
            with SplitWriter(new / split, len(splits[split]), shape, shard_images) as writer:
                writer.add(splits[split].images)
        finish(
            new,
            name=name,
            source=source,
            origin=Origin(kind=name),
            shape=shape,
            classes=classes,
            keys={split: keys_of(splits[split].images) for split in SPLITS},
            labels={split: splits[split].labels for split in SPLITS},
            levels=len(np.unique(splits["train"].images)),
            shard_images=shard_images,
        )
    return Dataset.open(folder)
