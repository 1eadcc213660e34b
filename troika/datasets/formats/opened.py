"""What a format's module returns of a file."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class DamagedError(Exception):
    """A file is not whole or cannot be decoded; never leaves `troika.datasets`."""

    def __init__(self, detail: str, problem: Literal["truncated", "unreadable"] = "truncated") -> None:
        super().__init__(detail)
        self.problem, self.detail = problem, detail


@dataclass(frozen=True)
class OpenedFile:
    """A file whose container has been read; its pixels are not decoded yet."""

    size: tuple[int, int]
    """(width, height) as stored, before `orientation` turns it."""
    decode: Callable[[], Image.Image | NDArray[np.uint8]]
    """Return the first picture: any Pillow image, or uint8 (H, W) in grey or (H, W, 3) in RGB.

    Raises DamagedError, or what Pillow raises for damaged files."""
    frames: int = 1
    """Pictures that are shown one after another; of a GIF 2 may mean more."""
    orientation: int = 1
    """1 to 8, as EXIF numbers them."""
    deep: bool = False
    """More than 8 bits a channel."""
