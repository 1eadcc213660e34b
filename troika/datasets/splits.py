"""Which split an image belongs to, and its place there: both depend on its pixels alone.

So adding images never moves old ones, equal images cannot stand on two sides, and the source's order does not
matter. See docs/decisions/splits-by-hash.md.
"""

import numpy as np
from numpy.typing import NDArray

from troika.datasets.contract import SPLITS
from troika.datasets.keys import Keys
from troika.datasets.spool import ORDER_BYTE
from troika.errors import DatasetError


def split_numbers(
    keys: Keys, validation_share: float, test_share: float, given: NDArray[np.int8] | None = None
) -> NDArray[np.int8]:
    """For each key the position of its split in SPLITS: int8 (N,).

    The first eight bytes decide, as a number in 0..1; each class gets the same shares, up to chance.

    Args:
        keys: (N, 32).
        validation_share: of the images.
        test_share: of the images.
        given: splits that the source says, int8 (N,). What it lacks, validation or test, is taken out of train.
    """
    if given is not None:
        lacking = [SPLITS.index(name) not in given for name in ("validation", "test")]
        hashed = split_numbers(keys, validation_share * lacking[0], test_share * lacking[1])
        return np.where(given == SPLITS.index("train"), hashed, given).astype(np.int8)
    position = np.ascontiguousarray(keys[:, :8]).view(">u8")[:, 0] / 2**64
    numbers = np.full(len(keys), SPLITS.index("train"), np.int8)
    numbers[position < test_share + validation_share] = SPLITS.index("validation")
    numbers[position < test_share] = SPLITS.index("test")
    return numbers


def key_order(keys: Keys, labels: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions that put `indices` in the order of the part of their keys that has not decided the split.

    Equal keys go by label.
    """
    words = np.ascontiguousarray(keys[indices, ORDER_BYTE:]).view(">u8")
    order: NDArray[np.int64] = np.lexsort((indices, labels[indices], words[:, 2], words[:, 1], words[:, 0]))
    return order


def check_every_class_everywhere(
    numbers: NDArray[np.int8], labels: NDArray[np.int64], classes: tuple[str, ...], *, given: bool
) -> None:
    """Raise DatasetError if a class has no image in some split; `given`: the source's own splits are used."""
    advice = "or set splits to hashed" if given else "or larger shares"
    for number, name in enumerate(SPLITS):
        found = np.bincount(labels[numbers == number], minlength=len(classes))
        if not found.all():
            raise DatasetError(
                f"class {classes[int(found.argmin())]!r} has no image in the {name} split "
                f"({found.sum()} images); give more images of it {advice}"
            )
