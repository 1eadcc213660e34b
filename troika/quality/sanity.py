"""Whether what a generator gives are pictures at all, and whether they are as bright and as rich as real ones.

Says what is wrong by name. Knows no limits, and nothing of what the pictures show.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from troika.datasets.checks import is_constant
from troika.datasets.contract import Images
from troika.datasets.keys import keys_of
from troika.quality.rows import blocks


@dataclass(frozen=True)
class Look:
    """Of many images, in levels."""

    shape: tuple[int, int, int]
    """(H, W, C)"""
    brightness: float
    """Mean of all pixels, 0..255."""
    contrast: float
    """Mean over images of the standard deviation of an image's pixels, 0..127.5."""


@dataclass(frozen=True)
class Sanity:
    """What can be said of generated images without knowing what they show."""

    constant: float
    """Share of images that are of one grey level or one colour."""
    repeated: float
    """Share of images that are an earlier one again, pixel by pixel."""
    brightness_gap: float
    """Difference of mean brightness to real images, of the whole range: 0..1."""
    contrast_ratio: float
    """Contrast over that of real images; 1 where neither has any, at most 1000."""


_HIGHEST_RATIO = 1000.0


def problem_of(images: Any, shape: tuple[int, int, int], count: int | None = None) -> str | None:
    """What is wrong with a generator's answer, in words; None: it is images uint8 (count, H, W, C).

    Args:
        images: whatever the generator gave.
        shape: (H, W, C) of the real images.
        count: how many were asked for; None: any number but 0.
    """
    if not isinstance(images, np.ndarray):
        return f"images: an array is needed, not {type(images).__name__}"
    if images.dtype != np.uint8:
        return f"images: uint8 0..255 is needed, not {images.dtype}{_range_of(images)}"
    if images.ndim != 4:
        return f"images: four dimensions (count, height, width, channels) are needed, not {images.shape}"
    if images.shape[1:] != shape:
        hint = ""
        if images.shape[1:] == (shape[2], *shape[:2]):
            hint = "; the channels come first, they must come last"
        return f"images: (height, width, channels) must be {shape}, not {images.shape[1:]}{hint}"
    if len(images) == 0 or (count is not None and len(images) != count):
        return f"images: {'some are' if count is None else f'{count} are'} needed, not {len(images)}"
    return None


def _range_of(images: NDArray[Any]) -> str:
    """What else an array of another type holds, as the end of a sentence."""
    if images.size == 0 or not np.issubdtype(images.dtype, np.number) or np.iscomplexobj(images):
        return ""
    finite = np.isfinite(images)
    if not finite.all():
        return f", of which {1 - float(finite.mean()):.1%} is NaN or infinite"
    low, high = float(images.min()), float(images.max())
    return f" in {low:.3g}..{high:.3g}"


def look_of(images: Images) -> Look:
    """Brightness and contrast of images uint8 (N, H, W, C), N >= 1."""
    if len(images) == 0:
        raise ValueError("images: at least 1 is needed")
    total, spread = 0.0, 0.0
    for part in blocks(len(images), int(np.prod(images.shape[1:]))):
        flat = np.asarray(images[part]).reshape(part.stop - part.start, -1)
        total += float(flat.mean(axis=1, dtype=np.float64).sum())
        spread += float(flat.std(axis=1, dtype=np.float64).sum())
    height, width, channels = images.shape[1:]
    return Look((height, width, channels), total / len(images), spread / len(images))


def sanity(images: Images, real: Look) -> Sanity:
    """Hold generated images against the look of real ones.

    Args:
        images: uint8 (N, H, W, C), N >= 1.
        real: `look_of` real images.

    Raises:
        ValueError: they are something else, in the words of `problem_of`.
    """
    problem = problem_of(images, real.shape)
    if problem:
        raise ValueError(problem)
    found = look_of(images)
    # A constant image's pixels are alike, but for their rounding.
    if real.contrast > 1e-6:
        ratio = min(found.contrast / real.contrast, _HIGHEST_RATIO)
    else:
        ratio = 1.0 if found.contrast <= 1e-6 else _HIGHEST_RATIO
    return Sanity(
        constant=float(is_constant(images).mean()),
        repeated=1 - len(np.unique(keys_of(images), axis=0)) / len(images),
        brightness_gap=abs(found.brightness - real.brightness) / 255,
        contrast_ratio=ratio,
    )
