"""What every measure asks of its rows of features, and how many of them are worked on at once."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from troika.datasets.cores import usable_cores

T = TypeVar("T")
Floats = NDArray[np.float32] | NDArray[np.float64]

_BLOCK_BYTES = 32 * 2**20
_MOST_THREADS = 8
_MOST_IMAGES = 256
_PIXELS_AT_ONCE = 2**20
_LARGEST = 1e15
"""Beyond it, sums of squares in float32 have no room."""


def check_rows(name: str, rows: Floats, at_least: int = 1) -> None:
    """Refuse rows that cannot be measured.

    Args:
        name: what the message calls them, such as `generated`.
        rows: (N, D).
        at_least: N may not be smaller.

    Raises:
        ValueError: not two-dimensional, too few, no columns, or values that are NaN or beyond 1e15.
    """
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"{name}: rows of features are needed, (N, D) with D >= 1, not an array {rows.shape}")
    if len(rows) < at_least:
        raise ValueError(f"{name}: at least {at_least} rows are needed, not {len(rows)}")
    broken = 0
    for part in blocks(len(rows), rows.shape[1]):
        # NaN is not smaller than anything.
        broken += int((~(np.abs(rows[part]) <= _LARGEST)).any(axis=1).sum())
    if broken:
        raise ValueError(f"{name}: {broken} of {len(rows)} rows hold NaN, infinity or values beyond {_LARGEST:g}")


def check_pair(name: str, rows: Floats, other_name: str, others: Floats, at_least: int = 1) -> None:
    """`check_rows` for both; and they must have the same features.

    Raises:
        ValueError: see `check_rows`; or the two have different numbers of features.
    """
    check_rows(name, rows, at_least)
    check_rows(other_name, others, at_least)
    if rows.shape[1] != others.shape[1]:
        raise ValueError(
            f"{name} and {other_name}: both need the same features, not {rows.shape[1]} and {others.shape[1]}"
        )


def blocks(count: int, width: int) -> Iterator[slice]:
    """Slices over `count` rows, so that a float64 array of one slice by `width` stays within 32 MiB."""
    return parts_of(count, max(1, _BLOCK_BYTES // (8 * max(width, 1))))


def parts_of(count: int, size: int) -> Iterator[slice]:
    """Slices over `count` rows, of `size` each but the last."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def images_at_once(height: int, width: int) -> int:
    """How many images a network looks at in one piece: fewer of large ones, whose layers fill the memory."""
    return max(1, min(_MOST_IMAGES, _PIXELS_AT_ONCE // (height * width)))


def on_all_cores(work: Callable[[slice], T], parts: Iterable[slice]) -> list[T]:
    """`work` of every part, in their order; for work that leaves Python's lock, as NumPy and ONNX Runtime do.

    The parts are the same on any number of cores, and so is what comes out. At most eight at a time: each holds
    what its part needs.
    """
    # Libraries that start threads of their own in each of these would wait for each other.
    with threadpool_limits(1), ThreadPoolExecutor(min(usable_cores(), _MOST_THREADS)) as pool:
        return list(pool.map(work, parts))
