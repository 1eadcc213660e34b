"""Small raw images of random pixels, and a short way to prepare them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from components.prepare_data import PrepareDataParams, prepare_data
from troika.datasets.checks import assign_splits, find_refused, image_keys
from troika.datasets.contract import Dataset, Images, Split, SplitName
from troika.datasets.sources import RawImages

SHARES = (0.2, 0.2)


def random_raw(count: int, *, classes: int = 2, channels: int = 1, seed: int = 0) -> RawImages:
    """`count` different images of 4 x 3 pixels, labels in turn."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 4, 3, channels), dtype=np.uint8)
    return RawImages(images, np.arange(count) % classes, tuple("abcdefghij"[:classes]), "test")


def split_up(raw: RawImages) -> dict[SplitName, Split]:
    keys = image_keys(raw)
    return assign_splits(raw, keys, find_refused(raw, keys), *SHARES)


def members(splits: Mapping[SplitName, Split]) -> dict[bytes, str]:
    """Image bytes -> the split that they are in."""
    found: dict[bytes, str] = {}
    for name, split in splits.items():
        for image in split.images:
            assert image.tobytes() not in found, "an image stands in two places"
            found[image.tobytes()] = name
    return found


def prepare_npz(folder: Path, images: Images, labels: np.ndarray, **changes: object) -> Dataset:
    """The step prepare_data over an .npz file of these arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "images.npz", images=images, labels=labels)
    params = {
        "source": "npz",
        "path": str(folder / "images.npz"),
        "validation_share": SHARES[0],
        "test_share": SHARES[1],
        "max_refused_share": 0.5,
        **changes,
    }
    prepare_data(
        folder / "dataset",
        folder / "data.html",
        folder / "refused.json",
        PrepareDataParams.parse(params, "test"),
    )
    return Dataset.open(folder / "dataset")
