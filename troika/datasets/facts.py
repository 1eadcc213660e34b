"""What is noted of every image while it passes by, so that all decisions can be made without its pixels."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from troika.datasets.keys import Keys, keys_of

_SIDE = 8
THUMBNAIL = _SIDE * _SIDE


@dataclass(frozen=True)
class Facts:
    """Of N images."""

    keys: Keys
    thumbnails: NDArray[np.float16]
    """(N, 64): 8 x 8 grey means, shifted and scaled to mean 0 and length 1; all zero for an even picture."""
    brightness: NDArray[np.float32]
    """(N,): mean level, 0..255."""
    lowest: NDArray[np.uint8]
    highest: NDArray[np.uint8]
    constant: NDArray[np.bool_]

    @classmethod
    def empty(cls, count: int) -> "Facts":
        """Room for `count` images."""
        return cls(
            np.zeros((count, 32), np.uint8),
            np.zeros((count, THUMBNAIL), np.float16),
            np.zeros(count, np.float32),
            np.zeros(count, np.uint8),
            np.zeros(count, np.uint8),
            np.zeros(count, np.bool_),
        )

    def put(self, indices: NDArray[np.int64], other: "Facts") -> None:
        """Write the facts of `other` to the places `indices`."""
        for name, values in vars(other).items():
            getattr(self, name)[indices] = values


def facts_of(images: NDArray[np.uint8]) -> Facts:
    """Look at images uint8 (N, H, W, C)."""
    flat = images.reshape(len(images), int(np.prod(images.shape[1:])))
    small = _shrink(images)
    brightness = small.mean(axis=1)
    small -= brightness[:, np.newaxis]
    length = np.linalg.norm(small, axis=1, keepdims=True)
    # An even picture has no shape to compare; rounding alone gives a length of about 1e-4.
    thumbnails = np.where(length > 1e-2, small / np.maximum(length, 1e-2), 0).astype(np.float16)
    lowest, highest = flat.min(axis=1), flat.max(axis=1)
    return Facts(keys_of(images), thumbnails, brightness, lowest, highest, is_constant(images))


def is_constant(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of the images (N, H, W, C) are of one grey level or one colour: bool (N,)."""
    suspects = (images[:, -1, -1] == images[:, 0, 0]).all(axis=1) & (images[:, 0, -1] == images[:, 0, 0]).all(
        axis=1
    )
    alike = np.zeros(len(images), np.bool_)
    chosen = np.flatnonzero(suspects)
    for start in range(0, len(chosen), 1024):
        some = chosen[start : start + 1024]
        seen = images[some]
        alike[some] = (seen == seen[:, :1, :1]).all(axis=(1, 2, 3))
    return alike


def _shrink(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey means of 8 x 8 equal fields: float32 (N, 64)."""
    count, height, width, channels = images.shape
    lines = images.reshape(count, height, width * channels)
    if height % _SIDE == 0:
        # As is usual; whole numbers are several times as fast.
        step = height // _SIDE
        lines = lines.reshape(count, _SIDE, step, width * channels)
        sums = lines[:, :, 0].astype(np.uint32 if step > 256 else np.uint16)
        for line in range(1, step):
            np.add(sums, lines[:, :, line], out=sums)
        means = sums.reshape(count * _SIDE, width * channels).astype(np.float32) @ _fields(width, channels)
        return means.reshape(count, THUMBNAIL) / np.float32(step)
    rows = lines.reshape(count * height, width * channels).astype(np.float32)
    across = (rows @ _fields(width, channels)).reshape(count, height, _SIDE)
    return np.ascontiguousarray(np.matmul(_fields(height, 1).T, across)).reshape(count, THUMBNAIL)


@lru_cache
def _fields(length: int, channels: int) -> NDArray[np.float32]:
    """(length * channels, 8): the weight of each value in the mean of each of eight fields."""
    edges = np.arange(_SIDE + 1) * length / _SIDE
    pixels = np.arange(length)[:, np.newaxis]
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    weights = np.clip(overlap, 0, None).repeat(channels, axis=0)
    fields: NDArray[np.float32] = (weights / weights.sum(axis=0)).astype(np.float32)
    return fields
