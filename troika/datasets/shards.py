"""Images of one split that lie in several files, read as if they were one array.

Does not write them; writing.py does.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class ShardedImages:
    """Several arrays uint8 (n, H, W, C), seen as one (N, H, W, C); each is mapped, nothing is loaded beforehand.

    Takes what training and judging ask of an array: `len`, `shape`, `dtype`, an index, a slice or an array of
    indices, which all give plain arrays. `np.asarray` loads everything.
    """

    def __init__(self, parts: Sequence[NDArray[np.uint8]]) -> None:
        """`parts`: at least one array, all of the same (H, W, C)."""
        self._parts = list(parts)
        self._ends = list(accumulate(len(part) for part in self._parts))
        self.shape: tuple[int, ...] = (self._ends[-1], *self._parts[0].shape[1:])
        self.dtype = np.dtype(np.uint8)
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape))
        self.nbytes = self.size

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: Any) -> NDArray[np.uint8]:
        if isinstance(chosen, slice):
            return self._range(*chosen.indices(len(self)))
        indices = np.asarray(chosen)
        if indices.dtype == bool:
            if indices.shape != (len(self),):
                raise IndexError(f"a mask must have shape ({len(self)},), not {indices.shape}")
            indices = np.flatnonzero(indices)
        if not np.issubdtype(indices.dtype, np.integer) and indices.size:
            raise IndexError("images are chosen by an index, a slice, an array of indices or a mask")
        flat = np.where(indices < 0, indices + len(self), indices).astype(np.int64).reshape(-1)
        if flat.size and (flat.min() < 0 or flat.max() >= len(self)):
            raise IndexError(f"index out of range: there are {len(self)} images")
        found = np.empty((len(flat), *self.shape[1:]), np.uint8)
        where = np.searchsorted(self._ends, flat, side="right")
        for number in np.unique(where):
            mine = where == number
            found[mine] = self._parts[number][flat[mine] - self._start(number)]
        return found.reshape(*indices.shape, *self.shape[1:])

    def __array__(self, dtype: DTypeLike = None, copy: bool | None = None) -> NDArray[Any]:
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def _start(self, number: int) -> int:
        return self._ends[number - 1] if number else 0

    def _range(self, start: int, stop: int, step: int) -> NDArray[np.uint8]:
        if step != 1:
            return self[np.arange(start, stop, step)]
        pieces = []
        while start < stop:
            number = bisect_right(self._ends, start)
            end = min(stop, self._ends[number])
            pieces.append(self._parts[number][start - self._start(number) : end - self._start(number)])
            start = end
        return np.concatenate(pieces) if pieces else np.empty((0, *self.shape[1:]), np.uint8)
