"""Image files by format: each module checks its container, leaves out what is not pixels, and decodes the rest."""

from collections.abc import Callable

from troika.datasets.formats.bmp import open_bmp
from troika.datasets.formats.gif import open_gif
from troika.datasets.formats.jpeg import open_jpeg
from troika.datasets.formats.opened import DamagedError, OpenedFile
from troika.datasets.formats.png import open_png
from troika.datasets.formats.webp import open_webp

__all__ = ["NAMES", "DamagedError", "OpenedFile", "find_format"]

Opener = Callable[[bytes], OpenedFile]

NAMES = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_OPENERS: dict[bytes, Opener] = {
    b"\x89PNG": open_png,
    b"\xff\xd8\xff": open_jpeg,
    b"GIF8": open_gif,
    b"BM": open_bmp,
}
HEAD = 12
"""Bytes that `find_format` looks at."""


def find_format(head: bytes) -> Opener | None:
    """Return what opens a file that begins with `head`, its first HEAD bytes; None if it is of none of NAMES."""
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return open_webp
    return next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)
