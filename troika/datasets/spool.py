"""Images parked on disk in up to 256 files by their keys, so that any number can be sorted with little memory.

Every file holds the images of one range of keys; reading file after file, and sorting each in memory, gives all
images in the order of their keys. The files are written and read from front to back: no seeking.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from troika.datasets.keys import Keys

ORDER_BYTE = 8
"""Where in a key the part begins that decides the order; the eight bytes before it decide the split."""
_FILE_BYTES = 32 * 2**20
_MOST_FILES = 256  # well under the 1,024 files that a process may usually have open


class Spool:
    """A context manager: `add` blocks, then read them back by `buckets`."""

    def __init__(self, folder: Path, expected_bytes: int) -> None:
        """Files go into `folder`, which is made."""
        folder.mkdir()
        # A power of two, so that no range of keys is larger than another.
        files = 1
        while files < _MOST_FILES and files * _FILE_BYTES < expected_bytes:
            files *= 2
        self._shift = 8 - files.bit_length() + 1
        self._paths = [folder / f"{number:03}" for number in range(files)]
        self._files: list[BinaryIO] = [path.open("wb") for path in self._paths]
        self._members: list[list[NDArray[np.int64]]] = [[] for _ in range(files)]

    def add(self, images: NDArray[np.uint8], keys: Keys, indices: NDArray[np.int64]) -> None:
        """Park images (n, H, W, C) with their keys (n, 32) and places in the source (n,)."""
        numbers = keys[:, ORDER_BYTE] >> self._shift
        order = np.argsort(numbers, kind="stable")
        borders = np.searchsorted(numbers[order], np.arange(len(self._files) + 1))
        for number in np.unique(numbers):
            chosen = order[borders[number] : borders[number + 1]]
            self._files[number].write(np.ascontiguousarray(images[chosen]).data)
            self._members[number].append(indices[chosen])

    def buckets(self, shape: tuple[int, int, int]) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        """Images and their places in the source, one range of keys after another.

        They are mapped; each file is removed as soon as the next is asked for.
        """
        self._close()
        for path, members in zip(self._paths, self._members, strict=True):
            if members:
                images = np.memmap(path, np.uint8, "r").view(np.ndarray).reshape(-1, *shape)
                yield images, np.concatenate(members)
            path.unlink()

    def _close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
