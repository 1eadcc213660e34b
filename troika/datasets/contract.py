"""The dataset folder: what every step may rely on once `prepare_data` has written it.

    dataset/
      dataset.json            shape, classes, counts, levels, origin, content hash
      train/images.npy        uint8, shape (N, H, W, C); C is 1 (grey) or 3 (RGB)
      train/labels.npy        int64, shape (N,), 0 <= label < number of classes
      validation/...  test/...

Past a size limit, the images of a split are shards of the same form: images-00000.npy, images-00001.npy, ...
Arrays are memory-mapped on reading. Does not decide what a good image is; checks.py does.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from troika.datasets.keys import Keys, keys_of_files
from troika.datasets.shards import ShardedImages
from troika.errors import DatasetError

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


class Origin(BaseModel):
    """Where a dataset's images come from, free of paths and secrets of the machine that prepared it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    """The source: digits, mnist5k, idx, folder, npz."""
    path: str = ""
    """Name of the file or folder; inside a DVC repository, the path in it."""
    repo: str | None = None
    """Git repository that DVC tracks the data in, without user and password."""
    rev: str | None = None
    """What was asked for: a tag, a branch or a commit."""
    commit: str | None = None
    """The Git commit that `rev` stood for."""
    dvc_hash: str | None = None
    """DVC's hash of what lies at `path` in that commit; None if Git itself holds it."""


class DatasetInfo(BaseModel):
    """Content of `dataset.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = 2
    name: str
    source: str
    origin: Origin
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    counts: dict[SplitName, int]
    levels: int
    shard_images: int = Field(ge=0)
    """Images in each shard but a split's last; 0: each split is one file."""
    content_hash: str


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, H, W, C) in 0..255 and labels int64 (N,).

    Of a large split the images are a `ShardedImages`, typed as the array that it behaves as when it is indexed.
    """

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
        """Validation and test together: every image that training has not seen. Shards are not loaded."""
        parts = [self.splits["validation"], self.splits["test"]]
        arrays = [part.images for part in parts]
        labels = np.concatenate([part.labels for part in parts])
        if any(isinstance(array, ShardedImages) for array in arrays):
            return Split(cast(Images, ShardedImages(arrays)), labels)
        return Split(np.concatenate(arrays), labels)

    @classmethod
    def open(cls, folder: Path, *, just_written: bool = False) -> "Dataset":
        """Open `folder`, checking arrays against `dataset.json`, the content hash included.

        Args:
            folder: that prepare_data wrote.
            just_written: by the caller, so that its pixels need not be read again for the hash.

        Raises:
            DatasetError: no dataset there, or its arrays are not those that were prepared.
        """
        try:
            info = DatasetInfo.model_validate_json((folder / "dataset.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise DatasetError(f"{folder} is not a dataset: it has no dataset.json; run prepare_data") from None
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            if where == "schema_version":
                words = f"of version {problem['input']}, which another Troika wrote"
            else:
                words = f"damaged: {where}{': ' if where else ''}{problem['msg']}"
            raise DatasetError(f"{folder}/dataset.json is {words}; run prepare_data again") from None
        except (OSError, ValueError) as error:
            raise DatasetError(f"{folder}/dataset.json is damaged: {error}; run prepare_data again") from None
        splits: dict[SplitName, Split] = {}
        keys: dict[SplitName, Keys] = {}
        for name in SPLITS:
            count = info.counts.get(name, 0)
            files = [folder / name / file for file in image_files(count, info.shard_images)]
            try:
                parts = [np.load(file, mmap_mode="r") for file in files]
                labels = np.load(folder / name / "labels.npy", mmap_mode="r")
            except (OSError, ValueError, EOFError) as error:
                raise DatasetError(f"{folder}/{name} cannot be read ({error}); run prepare_data again") from None
            for number, (file, part) in enumerate(zip(files, parts, strict=True)):
                size = min(info.shard_images, count - number * info.shard_images) if len(files) > 1 else count
                _check_array(file, part, np.uint8, (size, *info.shape))
            _check_array(folder / name / "labels.npy", labels, np.int64, (count,))
            images = parts[0] if len(parts) == 1 else cast(Images, ShardedImages(parts))
            splits[name] = Split(images, labels)
            if not just_written:
                keys[name] = keys_of_files(files, parts)
        if just_written:
            return cls(folder, info, splits)
        found = content_hash(info.shape, info.classes, keys, {name: splits[name].labels for name in SPLITS})
        if found != info.content_hash:
            raise DatasetError(
                f"{folder} has been changed: it hashes to {found}, dataset.json says {info.content_hash}; "
                "run prepare_data again"
            )
        return cls(folder, info, splits)


def image_files(count: int, shard_images: int) -> list[str]:
    """Names of the files that hold `count` images of a split."""
    if shard_images == 0 or count <= shard_images:
        return ["images.npy"]
    return [f"images-{number:05}.npy" for number in range(-(-count // shard_images))]


def _check_array(path: Path, array: object, dtype: type, shape: tuple[int, ...]) -> None:
    """Raise DatasetError unless the array has the type and shape that `dataset.json` promises."""
    # np.load takes an archive, too.
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "no array"
        raise DatasetError(
            f"{path} is {found}, but dataset.json says {np.dtype(dtype)} {shape}; run prepare_data again"
        )


def content_hash(
    shape: tuple[int, int, int],
    classes: Sequence[str],
    keys: Mapping[SplitName, Keys],
    labels: Mapping[SplitName, Labels],
) -> str:
    """`sha256:<hex>` of shape, class names and, split by split, all images and labels in their order.

    The same on any machine, and however the images are cut into files.

    Args:
        shape: (H, W, C).
        classes: names, in the order of labels.
        keys: SHA-256 of each image, see keys.py.
        labels: int64 (N,) of each split.
    """
    digest = hashlib.sha256(json.dumps([2, list(shape), list(classes)], ensure_ascii=True).encode())
    for name in SPLITS:
        digest.update(f"\n{name} {len(keys[name])}\n".encode())
        digest.update(np.ascontiguousarray(keys[name]).data)
        digest.update(np.ascontiguousarray(labels[name], dtype="<i8").data)
    return f"sha256:{digest.hexdigest()}"
