"""The pixels of a plain PNG file, in little more than half of Pillow's time; anything unusual is left to Pillow.

Plain is what most PNG files are: 8 bits a channel, grey or RGB, one picture, nothing transparent, no
orientation, no profile, not interlaced, every checksum right, from the first byte to the last. PNG is lossless,
so pixels are those of Pillow. Judges nothing: of a file that is not plain, decoding.py says what it is and what
is to become of it.

zlib unpacks and checks; libspng is given the unpacked rows and undoes PNG's filters. It is not trusted with a
file as it came: its own unpacking (miniz) takes a damaged stream that refers to what lies before its beginning.
"""

import struct
import zlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_BEGINNING = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"
_DATA_BEGINS = 33
_COLOUR_TYPES = {1: 0, 3: 2}
"""Channels -> how a header says so."""
_HARMLESS = {
    b"gAMA": {4}, b"cHRM": {32}, b"sRGB": {1}, b"sBIT": {1, 3}, b"bKGD": {2, 6}, b"pHYs": {9}, b"tIME": {7},
}  # fmt: skip
"""Kinds of chunks that do not change pixels, and their lengths. Not texts, where an orientation may stand."""


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
    if not content.startswith(_BEGINNING + header):
        return None
    packed = _packed_rows(content)
    rows = None if packed is None else _unpacked(packed, size[1] * (1 + size[0] * channels))
    if rows is None:
        return None
    import pyspng  # noqa: PLC0415 - only worker processes and small folders need it

    try:
        pixels: NDArray[np.uint8] = pyspng.load(_with_rows(content[:_DATA_BEGINS], rows))
    except RuntimeError:
        return None  # a row names a filter that there is not
    return pixels.reshape(size[1], size[0], channels)


def _packed_rows(content: bytes) -> bytes | None:
    """The pixels' compressed stream; None unless the file is nothing but known chunks, undamaged, to its end."""
    view, place, kind = memoryview(content), 8, b"IHDR"
    data: list[memoryview] = []
    while kind != b"IEND":
        if place + 12 > len(content):
            return None
        before = kind
        length, kind = struct.unpack_from(">I4s", content, place)
        end = place + 8 + length
        if end + 4 > len(content) or zlib.crc32(view[place + 4 : end]) != int.from_bytes(view[end : end + 4]):
            return None
        if kind == b"IDAT":
            if data and before != b"IDAT":
                return None  # the standard wants them in a row, and Pillow stops at what comes between
            data.append(view[place + 8 : end])
        elif place > 8 and kind != b"IEND" and length not in _HARMLESS.get(kind, ()):
            return None
        place = end + 4
    return b"".join(data) if place == len(content) else None


def _unpacked(packed: bytes, size: int) -> bytes | None:
    """`size` bytes; None unless the stream holds just these, and ends with their checksum."""
    unpacker = zlib.decompressobj()
    try:
        rows = unpacker.decompress(packed, size + 1)
    except zlib.error:
        return None
    return rows if len(rows) == size and unpacker.eof and not unpacker.unused_data else None


def _with_rows(beginning: bytes, rows: bytes) -> bytes:
    """A PNG file of these rows, not compressed."""
    data = b"IDAT" + zlib.compress(rows, 0)
    checked = data + zlib.crc32(data).to_bytes(4)
    return beginning + (len(data) - 4).to_bytes(4) + checked + b"\0\0\0\0IEND\xae\x42\x60\x82"
