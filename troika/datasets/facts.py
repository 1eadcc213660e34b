"""What is noted of every image while it passes by, so that all decisions can be made without its pixels."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from troika.datasets.keys import Keys, keys_of

_SIDE = 8
_COLOUR_SIDE = 4
_GREY = _SIDE * _SIDE
_MOST = 1000
"""Of a thumbnail's values: a strong tint of an almost even picture would leave what float16 holds."""
_OPPONENTS = ((6**-0.5, -(6**-0.5), 0), (18**-0.5, 18**-0.5, -2 * 18**-0.5))
"""Red against green, and both against blue: with the mean of the three, a turned and evenly scaled RGB."""


@dataclass(frozen=True)
class Facts:
    """Of N images."""

    keys: Keys
    thumbnails: NDArray[np.float16]
    """(N, 64): 8 x 8 grey means, shifted to mean 0; of RGB (N, 96), then 4 x 4 means of red against green, and
    4 x 4 of both against blue. What varies within a picture is scaled to length 1; all zero for an even one."""
    brightness: NDArray[np.float32]
    """(N,): mean level, 0..255."""
    lowest: NDArray[np.uint8]
    highest: NDArray[np.uint8]
    constant: NDArray[np.bool_]

    @classmethod
    def empty(cls, count: int, channels: int) -> "Facts":
        """Room for `count` images of 1 or 3 channels."""
        return cls(
            np.zeros((count, 32), np.uint8),
            np.zeros((count, _GREY + 2 * _COLOUR_SIDE**2 * (channels == 3)), np.float16),
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
    grey, colours = small[:, :_GREY], small[:, _GREY:]
    brightness = grey.mean(axis=1)
    grey -= brightness[:, np.newaxis]
    length = np.hypot(np.linalg.norm(grey, axis=1), _colour_length(colours))[:, np.newaxis]
    # An even picture has no shape to compare; rounding alone gives a length of about 1e-4.
    thumbnails = (
        np.where(length > 1e-2, small / np.maximum(length, 1e-2), 0).clip(-_MOST, _MOST).astype(np.float16)
    )
    lowest, highest = flat.min(axis=1), flat.max(axis=1)
    return Facts(keys_of(images), thumbnails, brightness, lowest, highest, is_constant(images))


def _colour_length(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the length (N,) of what varies in colour within a picture.

    A tint of the whole is compared, too, but is no shape: it must not bring tinted pictures nearer to each other.
    """
    if not colours.size:
        return np.zeros(len(colours), np.float32)
    each = colours.reshape(len(colours), 2, _COLOUR_SIDE**2)
    varying = each - each.mean(axis=2, keepdims=True)
    length: NDArray[np.float32] = np.linalg.norm(varying.reshape(colours.shape), axis=1)
    return length


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
    """Means of equal fields, float32: (N, 64) of grey images, (N, 96) of RGB."""
    means = _fields_of(images)
    count = len(means)
    grey, colours = means[:, :, :_SIDE].reshape(count, _GREY), means[:, :, _SIDE:]
    if images.shape[3] == 1:
        return np.ascontiguousarray(grey)
    # Fields of four times the size weigh twice as much in a length.
    pairs = colours.reshape(count, _COLOUR_SIDE, 2, 2, _COLOUR_SIDE).sum(axis=2).swapaxes(1, 2)
    return np.concatenate([grey, pairs.reshape(count, 2 * _COLOUR_SIDE**2)], axis=1)


def _fields_of(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, 8, 8), of RGB (N, 8, 16): eight rows of eight grey fields, then of four for each opponent colour."""
    count, height, width, channels = images.shape
    lines = images.reshape(count, height, width * channels)
    columns = _columns(width, channels)
    if height % _SIDE == 0:
        # As is usual; whole numbers are several times as fast.
        step = height // _SIDE
        lines = lines.reshape(count, _SIDE, step, width * channels)
        sums = lines[:, :, 0].astype(np.uint32 if step > 256 else np.uint16)
        for line in range(1, step):
            np.add(sums, lines[:, :, line], out=sums)
        means = sums.reshape(count * _SIDE, width * channels).astype(np.float32) @ columns
        return means.reshape(count, _SIDE, columns.shape[1]) / np.float32(step)
    rows = lines.reshape(count * height, width * channels).astype(np.float32)
    across = (rows @ columns).reshape(count, height, columns.shape[1])
    return np.ascontiguousarray(np.matmul(_fields(height, _SIDE).T, across))


@lru_cache
def _columns(width: int, channels: int) -> NDArray[np.float32]:
    """(width * channels, 8 or 16): the weight of each value of a line in the mean of each field."""
    grey = _fields(width, _SIDE).repeat(channels, axis=0) / np.float32(channels)
    if channels == 1:
        return grey
    halves = _fields(width, _COLOUR_SIDE)
    return np.hstack([grey, *(np.kron(halves, np.array([weights], np.float32).T) for weights in _OPPONENTS)])


@lru_cache
def _fields(length: int, count: int) -> NDArray[np.float32]:
    """(length, count): the weight of each pixel in the mean of each of `count` equal fields."""
    edges = np.arange(count + 1) * length / count
    pixels = np.arange(length)[:, np.newaxis]
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    weights = np.clip(overlap, 0, None)
    fields: NDArray[np.float32] = (weights / weights.sum(axis=0)).astype(np.float32)
    return fields
