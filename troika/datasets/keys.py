"""An image's key: the SHA-256 of its pixels, which decides its split, its place there and what equals it."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from troika.datasets.cores import usable_cores

Keys = NDArray[np.uint8]
"""uint8 (N, 32)."""

_CHUNK_BYTES = 8 * 2**20


def keys_of(images: NDArray[np.uint8]) -> Keys:
    """The keys of images uint8 (N, H, W, C)."""
    rows = np.ascontiguousarray(images).reshape(len(images), int(np.prod(images.shape[1:])))
    sha256 = hashlib.sha256
    return np.frombuffer(b"".join([sha256(row).digest() for row in rows]), np.uint8).reshape(-1, 32)


def keys_of_files(files: Sequence[Path], arrays: Sequence[NDArray[np.uint8]]) -> Keys:
    """The keys of all images in `.npy` files, in order.

    Files are read piece by piece and not by their mapping, which would count each page that it has touched as this
    process's memory.

    Args:
        files: `.npy` files of images.
        arrays: the same, mapped: they know where the data begins.
    """

    def chunk(piece: tuple[Path, int, int, tuple[int, ...]]) -> Keys:
        path, offset, count, shape = piece
        size = int(np.prod(shape))
        return keys_of(np.fromfile(path, np.uint8, count * size, offset=offset).reshape(count, *shape))

    pieces = []
    for path, array in zip(files, arrays, strict=True):
        size = int(np.prod(array.shape[1:]))
        step = max(1, _CHUNK_BYTES // max(size, 1))
        start = path.stat().st_size - array.size
        pieces += [
            (path, start + first * size, min(step, len(array) - first), array.shape[1:])
            for first in range(0, len(array), step)
        ]
    if len(pieces) <= 1:
        found = [chunk(piece) for piece in pieces]
    else:
        with ThreadPoolExecutor(usable_cores()) as pool:
            found = list(pool.map(chunk, pieces))
    return np.concatenate(found) if found else np.empty((0, 32), np.uint8)
