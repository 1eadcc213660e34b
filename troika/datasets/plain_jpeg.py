"""The pixels of a plain JPEG file, in a quarter of Pillow's time; anything unusual is left to Pillow.

Plain is baseline or progressive, 8 bits, grey or YCbCr, with nothing in it that could turn, add to or explain the
picture: no Exif, no profile, no second picture, no Adobe marker; and undamaged from the first byte to the last.
simplejpeg and Pillow both have libjpeg-turbo, asked for the same exact transforms, so pixels are those of Pillow.
Judges nothing: of a file that is not plain, decoding.py says what it is and what is to become of it.
"""

import struct
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_BEGINNING, _END = b"\xff\xd8\xff", b"\xff\xd9"
_FRAMES = {0xC0, 0xC2}
_SCAN = 0xDA
_HARMLESS = {0xC4, 0xDB, 0xDD, 0xE0, 0xFE}
"""Tables, restart interval, JFIF, comment."""


def decode_plain_jpeg(content: bytes, size: tuple[int, int], channels: Literal[1, 3]) -> NDArray[np.uint8] | None:
    """Pixels uint8 (H, W, C) of a whole file's content.

    Args:
        content: of the file.
        size: (width, height) that it must have.
        channels: 1 for a grey picture, 3 for a coloured one.

    Returns:
        None where the file is not plain, or has another size or colour.
    """
    if not (content.startswith(_BEGINNING) and content.endswith(_END)) or not _has_frame(content, size, channels):
        return None
    import simplejpeg  # noqa: PLC0415 - only worker processes and small folders need it

    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            content, "GRAY" if channels == 1 else "RGB", fastdct=False, fastupsample=False, strict=True
        )
    except ValueError:
        return None  # damaged, and be it only so that libjpeg warns
    return pixels.reshape(size[1], size[0], channels)


def _has_frame(content: bytes, size: tuple[int, int], channels: int) -> bool:
    """Whether what comes before the pixels is one frame of this form, and nothing that is not harmless."""
    frame = struct.pack(">BHHB", 8, size[1], size[0], channels)
    place, found = 2, False
    while place + 4 <= len(content):
        mark, marker, length = struct.unpack_from(">BBH", content, place)
        segment = content[place + 4 : place + 2 + length]
        if mark != 0xFF:
            return False
        if marker == _SCAN:
            return found
        if marker in _FRAMES:
            # Components are to be numbered 1, 2, 3: other numbers may be letters that name other colours.
            if found or not segment.startswith(frame) or segment[6::3] != bytes(range(1, channels + 1)):
                return False
            found = True
        elif marker not in _HARMLESS:
            return False
        place += 2 + length
    return False
