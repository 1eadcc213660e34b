"""The pixels of a plain WebP file, if it is small in half of Pillow's time; anything unusual is left to Pillow.

Plain is the simple file format: one lossy (VP8) or lossless (VP8L) picture without transparency, and no room for
animation, Exif or a profile; nothing behind its chunk. The package webp has libwebp, as Pillow has, so pixels are
those of Pillow, which makes a fourth channel of each picture first. Judges nothing: of a file that is not plain,
decoding.py says what it is and what is to become of it.

Source: RFC 9649, sections 2.3 to 2.6, 3.4; RFC 6386, section 9.1.
"""

import struct
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_KEY_FRAME_SHOWN, _TAG_BITS = 0x10, 0x11
"""Of a lossy picture's first byte: what it must say, among the bits that are looked at."""
_LOSSY_START = b"\x9d\x01\x2a"
_LOSSLESS_START = 0x2F


def decode_plain_webp(content: bytes, size: tuple[int, int], channels: Literal[1, 3]) -> NDArray[np.uint8] | None:
    """Pixels uint8 (H, W, 3) of a whole file's content.

    Args:
        content: of the file.
        size: (width, height) that it must have.
        channels: 3; with 1 no file is plain, since all that WebP has is coloured.

    Returns:
        None where the file is not plain, or has another size.
    """
    if channels != 3 or not _holds_one_picture(content, size):
        return None
    import webp  # noqa: PLC0415 - only worker processes and small folders need it

    try:
        pixels: NDArray[np.uint8] = webp.WebPData.from_buffer(content).decode(color_mode=webp.WebPColorMode.RGB)
    except webp.WebPError:
        return None  # damaged
    return pixels if pixels.shape == (size[1], size[0], 3) else None


def _holds_one_picture(content: bytes, size: tuple[int, int]) -> bool:
    """Whether the file is one chunk with a picture of this size, and ends with it."""
    if len(content) < 30:
        return False
    riff, length, form, kind, inside = struct.unpack_from("<4sI4s4sI", content)
    lengths = (length + 8, inside + inside % 2 + 20)
    if (riff, form) != (b"RIFF", b"WEBP") or lengths != (len(content), len(content)):
        return False
    if kind == b"VP8 ":
        tag, start, width, height = struct.unpack_from("<B2x3sHH", content, 20)
        # Two bits of each length would ask for scaling.
        return (tag & _TAG_BITS, start, (width, height)) == (_KEY_FRAME_SHOWN, _LOSSY_START, size)
    if kind == b"VP8L":
        start, bits = struct.unpack_from("<BI", content, 20)
        # Then a bit for transparency, and three for a version.
        return (start, bits) == (_LOSSLESS_START, size[0] - 1 | size[1] - 1 << 14)
    return False
