"""The dataset folder: what every step may rely on once `prepare_data` has written it.

    dataset/
      dataset.json            shape, classes, counts, value range, source, content hash
      train/images.npy        uint8, shape (N, H, W, C); C is 1 (grey) or 3 (RGB)
      train/labels.npy        int64, shape (N,), 0 <= label < number of classes
      validation/...  test/...

Arrays are memory-mapped on reading. Does not decide what a good image is; checks.py does.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from troika.errors import DatasetError
from troika.folders import replace_folder

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


class DatasetInfo(BaseModel):
    """Content of `dataset.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    name: str
    source: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    counts: dict[SplitName, int]
    levels: int
    content_hash: str


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, H, W, C) in 0..255 and labels int64 (N,)."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Dataset:
    """A dataset folder that has been opened and found to be what its `dataset.json` says."""

    folder: Path
    info: DatasetInfo
    splits: Mapping[SplitName, Split]

    @property
    def train(self) -> Split:
        """What training sees."""
        return self.splits["train"]

    @cached_property
    def held_out(self) -> Split:
        """Validation and test together: every image that training has not seen."""
        parts = [self.splits["validation"], self.splits["test"]]
        return Split(
            images=np.concatenate([part.images for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
        )

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """Open `folder`, checking arrays against `dataset.json`, the content hash included.

        Raises:
            DatasetError: no dataset there, or its arrays are not those that were prepared.
        """
        try:
            info = DatasetInfo.model_validate_json((folder / "dataset.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise DatasetError(f"{folder} is not a dataset: it has no dataset.json; run prepare_data") from None
        except (OSError, ValueError) as error:
            raise DatasetError(f"{folder}/dataset.json is damaged: {error}; run prepare_data again") from None
        splits: dict[SplitName, Split] = {}
        for name in SPLITS:
            try:
                images = np.load(folder / name / "images.npy", mmap_mode="r")
                labels = np.load(folder / name / "labels.npy", mmap_mode="r")
            except (OSError, ValueError, EOFError) as error:
                raise DatasetError(f"{folder}/{name} cannot be read ({error}); run prepare_data again") from None
            _check_split(f"{folder}/{name}", images, labels, info, info.counts.get(name, 0))
            splits[name] = Split(images, labels)
        found = content_hash(splits)
        if found != info.content_hash:
            raise DatasetError(
                f"{folder} has been changed: its arrays hash to {found}, dataset.json says {info.content_hash}; "
                "run prepare_data again"
            )
        return cls(folder, info, splits)


def _check_split(where: str, images: object, labels: object, info: DatasetInfo, count: int) -> None:
    """Raise DatasetError unless both arrays have the type and shape that `dataset.json` promises."""
    for name, array, dtype, shape in (
        ("images", images, np.uint8, (count, *info.shape)),
        ("labels", labels, np.int64, (count,)),
    ):
        # np.load takes an archive, too; and the content hash below casts, so it sees no other type.
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
            found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "no array"
            raise DatasetError(
                f"{where}/{name}.npy is {found}, but dataset.json says {np.dtype(dtype)} {shape}; "
                "run prepare_data again"
            )


def content_hash(splits: Mapping[SplitName, Split]) -> str:
    """`sha256:<hex>` of all images and labels, split by split; the same on any machine."""
    digest = hashlib.sha256()
    for name in SPLITS:
        split = splits[name]
        digest.update(f"{name} {split.images.shape}\n".encode())
        digest.update(np.ascontiguousarray(split.images, dtype=np.uint8).data)
        digest.update(np.ascontiguousarray(split.labels, dtype="<i8").data)
    return f"sha256:{digest.hexdigest()}"


def write_dataset(
    folder: Path, *, name: str, source: str, classes: tuple[str, ...], splits: Mapping[SplitName, Split]
) -> Dataset:
    """Write a dataset folder, whole or not at all, and open it.

    Raises:
        DatasetError: a split is empty.
    """
    empty = [split for split in SPLITS if len(splits[split]) == 0]
    if empty:
        raise DatasetError(f"no image left for {', '.join(empty)}; give more images or larger shares")
    info = DatasetInfo(
        name=name,
        source=source,
        shape=splits["train"].images.shape[1:],
        classes=classes,
        counts={split: len(splits[split]) for split in SPLITS},
        levels=len(np.unique(splits["train"].images)),
        content_hash=content_hash(splits),
    )
    with replace_folder(folder) as new:
        for split in SPLITS:
            (new / split).mkdir()
            np.save(new / split / "images.npy", splits[split].images)
            np.save(new / split / "labels.npy", splits[split].labels)
        (new / "dataset.json").write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return Dataset.open(folder)
