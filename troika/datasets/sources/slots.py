"""Pixels from worker processes to the one that parks them: a file of slots that all of them have mapped.

A pipe would copy every pixel four times, half of that in the process that all others wait for. The file lies
beside what is written in the end, not in /dev/shm, of which a container has 64 MB. Knows nothing of what the
pixels show.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from troika.errors import DatasetError


@dataclass(frozen=True)
class Slots:
    """Where the slots are; goes to worker processes, which map the file once."""

    path: str
    shape: tuple[int, int, int, int, int]
    """(slots, images in each, H, W, C)."""

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        """Slot `number` modulo their count: uint8 (n, H, W, C), written by one process, then read by another."""
        slot: NDArray[np.uint8] = _mapped(self)[number % self.shape[0]]
        return slot


@contextmanager
def open_slots(folder: Path, count: int, images: int, shape: tuple[int, int, int]) -> Iterator[Slots]:
    """`count` slots for `images` images each, in a file in `folder` that is removed afterwards.

    Raises:
        DatasetError: there is no room for it.
    """
    with tempfile.NamedTemporaryFile(prefix=".slots-", dir=folder) as file:
        slots = Slots(file.name, (count, images, *shape))
        size = int(np.prod(slots.shape))
        try:
            # Room for all of it: where a mapped file turns out to have none, the writer is killed.
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise DatasetError(
                f"reading images by several processes needs {size / 1e6:.1f} MB in {folder.parent}: "
                f"{error.strerror}; make room there, or write elsewhere"
            ) from None
        try:
            yield slots
        finally:
            _mapped.cache_clear()  # else this process would keep the space of a file that is gone


@lru_cache(maxsize=1)
def _mapped(slots: Slots) -> NDArray[np.uint8]:
    return np.memmap(slots.path, np.uint8, "r+", shape=slots.shape).view(np.ndarray)
