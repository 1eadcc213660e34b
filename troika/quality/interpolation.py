"""The way from one latent to another, as images.

A model that has learned more than its training images changes smoothly on it. Judges nothing.
Latents come from outside: which sampler draws them is the models' business.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from troika.datasets.contract import Images, Labels

_PARALLEL = 1e-6
"""Below this sine of the angle between two latents, a straight line."""


class FromLatents(Protocol):
    """Whatever makes images of given latents."""

    def draw_from(self, latents: NDArray[np.float32], labels: Labels) -> Images:
        """Images uint8 (N, H, W, C) of latents (N, L) and labels (N,)."""


def interpolate(generator: FromLatents, ends: NDArray[np.float32], labels: Labels, steps: int = 8) -> Images:
    """Images (R, steps, H, W, C) on the way between two latents, in each row with one label.

    Args:
        generator: makes the images.
        ends: (R, 2, L): where a row begins and where it ends; both are among its images.
        labels: (R,); an unconditional generator does not look at them.
        steps: images in a row, at least 2.

    Raises:
        ValueError: fewer than two steps, or shapes that do not fit together.
    """
    if ends.ndim != 3 or ends.shape[1] != 2 or labels.shape != (len(ends),) or not len(ends):
        raise ValueError(f"ends must be (R, 2, L) and labels (R,), R >= 1, not {ends.shape} and {labels.shape}")
    if steps < 2:
        raise ValueError(f"steps must be at least 2, to hold both ends, not {steps}")
    way = np.stack([spherical(first, last, steps) for first, last in ends])
    images = generator.draw_from(way.reshape(-1, ends.shape[2]), np.repeat(labels, steps))
    return images.reshape(len(ends), steps, *images.shape[1:])


def spherical(first: NDArray[np.float32], last: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Latents (steps, L) from `first` (L,) to `last` (L,), both exact, along the arc between their directions.

    A straight line would pass nearer to the origin than latents ever lie: most of a normal distribution of many
    dimensions is in a thin shell. Source: White 2016 (arXiv 1609.04468).
    """
    start, end = first.astype(np.float64), last.astype(np.float64)
    shares = np.linspace(0.0, 1.0, steps)[:, np.newaxis]
    lengths = np.linalg.norm(start) * np.linalg.norm(end)
    angle = float(np.arccos(np.clip(start @ end / lengths, -1.0, 1.0))) if lengths else 0.0
    if np.sin(angle) < _PARALLEL:
        way = (1 - shares) * start + shares * end
    else:
        way = (np.sin((1 - shares) * angle) * start + np.sin(shares * angle) * end) / np.sin(angle)
    # Rounding must not move the ends.
    way[0], way[-1] = start, end
    found: NDArray[np.float32] = way.astype(np.float32)
    return found
