"""The pixels of a plain PNG file, in less than half of Pillow's time; anything unusual is left to Pillow.

Plain is what most PNG files are: 8 bits a channel, grey or RGB, one picture, nothing transparent, no orientation,
not interlaced, every checksum right, from the first byte to the last. PNG is lossless, so pixels are those of
Pillow.
Judges nothing: of a file that is not plain, decoding.py says what it is and what is to become of it.
"""

import struct
import zlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_BEGINNING = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"
_COLOUR_TYPES = {1: 0, 3: 2}
"""Channels -> how a header says so."""
_HARMLESS = {b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"bKGD", b"pHYs", b"tIME"}
"""Kinds of chunks that do not change pixels. Texts are not among them: orientation may stand there."""


def decode_plain_png(content: bytes, size: tuple[int, int], channels: Literal[1, 3]) -> NDArray[np.uint8] | None:
    """Pixels uint8 (H, W, C) of a whole file's content.

    Args:
        content: of the file.
        size: (width, height) that it must have.
        channels: 1 for a grey picture, 3 for RGB.

    Returns:
        None where the file is not plain, or has another size or colour.
    """
    header = struct.pack(">IIBBBBB", *size, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    if not content.startswith(_BEGINNING + header) or not _is_whole(content):
        return None
    import pyspng  # noqa: PLC0415 - only worker processes and small folders need it

    try:
        pixels: NDArray[np.uint8] = pyspng.load(content)
    except RuntimeError:
        return None
    return pixels.reshape(size[1], size[0], channels)


def _is_whole(content: bytes) -> bool:
    """Whether a file is nothing but harmless chunks, undamaged, up to its end."""
    view, place, kind = memoryview(content), 8, b"IHDR"
    while kind != b"IEND":
        if place + 12 > len(content):
            return False
        length, kind = struct.unpack_from(">I4s", content, place)
        end = place + 8 + length
        if end + 4 > len(content) or (kind not in _HARMLESS and place > 8):
            return False
        if zlib.crc32(view[place + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            return False
        place = end + 4
    return place == len(content)
