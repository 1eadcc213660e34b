"""Small images of random pixels, as arrays and as files, and a short way to prepare them."""

import io
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from quick import REPOSITORY

from components.prepare_data import PrepareDataParams, prepare_data
from components.step import read_sections
from troika.datasets.contract import SPLITS, Dataset, Images, Labels, Split, SplitName
from troika.datasets.keys import keys_of
from troika.datasets.splits import key_order, split_numbers
from troika.params import merge

SHARES = (0.2, 0.2)
SECTION = read_sections(REPOSITORY / "params.yaml")["prepare_data"]


def random_images(count: int, *, channels: int = 1, seed: int = 0, size: tuple[int, int] = (4, 3)) -> Images:
    """`count` different images, by default of 4 x 3 pixels."""
    return np.random.default_rng(seed).integers(0, 256, (count, *size, channels), dtype=np.uint8)


def smooth_picture(width: int, height: int, seed: int) -> Image.Image:
    """In colour, smooth as photographs are; the seed decides how smooth, too."""
    small = np.random.default_rng(seed).integers(0, 256, (seed % 9 + 1, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """A file's content, as Pillow writes it."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG, with its right checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def split_up(images: Images, labels: Labels) -> dict[SplitName, Split]:
    """The splits that hashing gives, without checks."""
    keys = keys_of(images)
    numbers = split_numbers(keys, *SHARES)
    splits: dict[SplitName, Split] = {}
    for number, name in enumerate(SPLITS):
        mine = np.flatnonzero(numbers == number)
        mine = mine[key_order(keys, labels, mine)]
        splits[name] = Split(images[mine], labels[mine])
    return splits


def members(splits: Mapping[SplitName, Split]) -> dict[bytes, str]:
    """Image bytes -> the split that they are in."""
    found: dict[bytes, str] = {}
    for name, split in splits.items():
        for image in np.asarray(split.images[:]):
            assert image.tobytes() not in found, "an image stands in two places"
            found[image.tobytes()] = name
    return found


def prepare_params(**changes: Any) -> PrepareDataParams:
    small = {"validation_share": SHARES[0], "test_share": SHARES[1], "max_refused_share": 0.5}
    return PrepareDataParams.parse(merge(merge(SECTION, small), changes), "test")


@dataclass(frozen=True)
class Made:
    """What the step prepare_data has written."""

    folder: Path

    @property
    def dataset(self) -> Dataset:
        return Dataset.open(self.folder / "dataset")

    @property
    def report(self) -> str:
        return (self.folder / "data.html").read_text()

    @property
    def refused(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "refused.json").read_text())
        return loaded

    def quarantined(self) -> dict[str, str]:
        """File or image -> problem."""
        return {entry["name"]: entry["problem"] for entry in self.refused["quarantined"]}


def prepare(folder: Path, path: Path | str, **changes: Any) -> Made:
    """The step prepare_data over what lies at `path`."""
    folder.mkdir(parents=True, exist_ok=True)
    params = prepare_params(**{"source": "auto", "path": str(path), **changes})
    prepare_data(folder / "dataset", folder / "data.html", folder / "refused.json", params)
    return Made(folder)


def prepare_npz(folder: Path, images: Images, labels: np.ndarray, **changes: Any) -> Dataset:
    """The same over an .npz file of these arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "images.npz", images=images, labels=labels)
    return prepare(folder, folder / "images.npz", **changes).dataset


def write_folder(
    root: Path, images: Images, labels: Labels, classes: str | list[str] = "abcdefghij", suffix: str = "png"
) -> Path:
    """A folder with a sub-folder of image files for each class."""
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        picture.save(folder / f"{index:04}.{suffix}", lossless=True)  # which WebP alone asks for
    return root
