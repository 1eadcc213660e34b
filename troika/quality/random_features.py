"""Features that nobody has trained: fixed random filters, as a cross-check of the evaluator's.

A generator cannot have been fitted to them and no dataset has shaped them, so a fault of the evaluator does not
repeat here. They say less of what is in a picture than trained features do.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from troika.datasets.contract import Images
from troika.quality.rows import blocks, on_all_cores

_FILTERS = 32
_SIDE = 5
_GRID = 4
_LARGE = 48
"""Images of this side or more are looked at in every second place: a quarter of the work."""


class RandomFeatures:
    """One layer of random filters, rectified, and averaged over each of up to 4 x 4 fields: D up to 512.

    The same seed gives the same features on every machine, but for rounding.
    """

    def __init__(self, shape: tuple[int, int, int], seed: int = 0) -> None:
        """Make filters for images of `shape` (H, W, C)."""
        height, width, channels = shape
        self.shape = shape
        self._stride = 2 if max(height, width) >= _LARGE else 1
        random = np.random.default_rng(seed)
        filters = random.standard_normal((_FILTERS, channels, _SIDE, _SIDE))
        # Smooth filters answer to strokes and edges, rough ones to noise.
        filters = gaussian_filter(filters, (0, 0, 1, 1), mode="constant").reshape(_FILTERS, -1)
        filters -= filters.mean(axis=1, keepdims=True)
        filters /= np.linalg.norm(filters, axis=1, keepdims=True)
        self._filters: NDArray[np.float32] = np.ascontiguousarray(filters.T, np.float32)
        self._offsets: NDArray[np.float32] = (0.7 * random.standard_normal(_FILTERS)).astype(np.float32)
        self._rows = _fields(-(-height // self._stride))
        self._columns = _fields(-(-width // self._stride))
        self.size = _FILTERS * len(self._rows) * len(self._columns)

    def look_at(self, images: Images) -> NDArray[np.float32]:
        """Features (N, D) of images uint8 (N, H, W, C).

        Raises:
            ValueError: images of another shape or type.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise ValueError(f"images: uint8 (N, {wanted}) is needed, not {images.dtype} {images.shape}")
        parts = list(blocks(len(images), int(np.prod(self.shape)) * _SIDE**2 // self._stride**2))
        if not parts:
            return np.empty((0, self.size), np.float32)
        return np.concatenate(on_all_cores(lambda part: self._look_at(images[part]), parts))

    def _look_at(self, images: Images) -> NDArray[np.float32]:
        rim = _SIDE // 2
        scaled = images.astype(np.float32) / 127.5 - 1
        padded = np.pad(scaled, ((0, 0), (rim, rim), (rim, rim), (0, 0)), mode="edge")
        step = self._stride
        windows = sliding_window_view(padded, (_SIDE, _SIDE), axis=(1, 2))  # type: ignore[call-overload]
        windows = windows[:, ::step, ::step]
        count, rows, columns = windows.shape[:3]
        answers = windows.reshape(count * rows * columns, -1) @ self._filters
        answers += self._offsets
        np.maximum(answers, 0, out=answers)
        # Means along a side are products with a small matrix, many times as fast as sums over slices.
        down = _means(self._rows, rows) @ answers.reshape(count, rows, columns * _FILTERS)
        fields = _means(self._columns, columns) @ down.reshape(count, -1, columns, _FILTERS)
        flat: NDArray[np.float32] = fields.reshape(count, -1)
        return flat


def _means(starts: list[int], side: int) -> NDArray[np.float32]:
    """(F, side): row f averages the places of field f, which end where the next field begins."""
    found = np.zeros((len(starts), side), np.float32)
    for row, start, stop in zip(found, starts, [*starts[1:], side], strict=True):
        row[start:stop] = 1 / (stop - start)
    return found


def _fields(side: int) -> list[int]:
    """Where each of up to four fields begins along a side of so many places."""
    count = min(_GRID, side)
    return [number * side // count for number in range(count)]
