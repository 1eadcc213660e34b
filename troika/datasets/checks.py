"""Which images are refused, and which split each of the others belongs to.

Both depend on an image's bytes alone: order, machine and neighbours do not matter, so adding images never
moves old ones, and equal images can never stand on both sides of a split.
"""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from troika.datasets.contract import SPLITS, Images, Split, SplitName
from troika.datasets.sources import RawImages
from troika.errors import DatasetError

Reason = Literal["constant", "duplicate", "contradictory labels"]


@dataclass(frozen=True)
class Refused:
    """One image that is left out."""

    index: int
    """Position in the source."""
    label: int
    reason: Reason
    detail: str


def image_keys(raw: RawImages) -> list[bytes]:
    """One SHA-256 per image, of its bytes alone."""
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in raw.images]


def is_constant(images: Images) -> NDArray[np.bool_]:
    """Which of the images (N, H, W, C) are of one grey level or one colour: bool (N,)."""
    alike: NDArray[np.bool_] = (images == images[:, :1, :1]).all(axis=(1, 2, 3))
    return alike


def find_refused(raw: RawImages, keys: list[bytes]) -> list[Refused]:
    """Images that training must not see: constant, repeated, or the same picture under different labels."""
    refused: list[Refused] = []
    by_key: dict[bytes, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        by_key[key].append(index)
    for index in np.flatnonzero(is_constant(raw.images)):
        value = ", ".join(str(level) for level in raw.images[index, 0, 0])
        refused.append(Refused(int(index), int(raw.labels[index]), "constant", f"every pixel is {value}"))
    constant = {entry.index for entry in refused}
    for indices in by_key.values():
        if len(indices) == 1 or indices[0] in constant:
            continue
        names = sorted({raw.classes[raw.labels[index]] for index in indices})
        if len(names) > 1:
            detail = f"same picture labelled {' and '.join(names)}"
            refused += [Refused(i, int(raw.labels[i]), "contradictory labels", detail) for i in indices]
        else:
            detail = f"same as image {indices[0]}"
            refused += [Refused(i, int(raw.labels[i]), "duplicate", detail) for i in indices[1:]]
    return sorted(refused, key=lambda entry: entry.index)


def assign_splits(
    raw: RawImages, keys: list[bytes], refused: list[Refused], validation_share: float, test_share: float
) -> dict[SplitName, Split]:
    """Split what is left by hash, and put each split into an order that does not depend on the source's.

    Args:
        raw: all images of the source.
        keys: of `image_keys`.
        refused: of `find_refused`.
        validation_share: share of images for validation, 0..1.
        test_share: share of images for test, 0..1.

    Raises:
        DatasetError: a class has no image in some split.
    """
    left_out = {entry.index for entry in refused}
    members: dict[SplitName, list[int]] = {name: [] for name in SPLITS}
    for index in range(len(keys)):
        if index in left_out:
            continue
        # The first eight bytes decide the split, the rest the order, so neither says anything of the other.
        position = int.from_bytes(keys[index][:8], "big") / 2**64
        if position < test_share:
            members["test"].append(index)
        elif position < test_share + validation_share:
            members["validation"].append(index)
        else:
            members["train"].append(index)
    for name, indices in members.items():
        indices.sort(key=lambda index: keys[index][8:])
        absent = sorted(set(range(len(raw.classes))) - set(raw.labels[indices].tolist()))
        if absent:
            raise DatasetError(
                f"class {raw.classes[absent[0]]!r} has no image in the {name} split "
                f"({len(indices)} images); give more images of it or larger shares"
            )
    return {name: Split(raw.images[indices], raw.labels[indices]) for name, indices in members.items()}
