"""Image files written by hand, for what Pillow does not write: other depths, damage, metadata that is broken."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from raw_images import chunk

PNG = b"\x89PNG\r\n\x1a\n"


def png(
    width: int,
    height: int,
    rows: bytes,
    *,
    depth: int = 8,
    colour: int = 2,
    before: bytes = b"",
    after: bytes = b"",
    interlace: int = 0,
) -> bytes:
    """A PNG of these rows, each with the byte of its filter; `before` and `after` are chunks around the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return PNG + chunk(b"IHDR", header) + before + pixels + after + chunk(b"IEND", b"")


def png_rows(pixels: NDArray[np.uint8]) -> bytes:
    """The rows of pixels (H, W, C), without filters."""
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def packed_rows(levels: NDArray[np.uint8], depth: int) -> bytes:
    """The rows of levels (H, W) of fewer than 8 bits, without filters."""
    bits = (levels[..., np.newaxis] >> np.arange(depth)[::-1]) & 1
    return b"".join(b"\0" + row.tobytes() for row in np.packbits(bits.reshape(len(levels), -1), axis=1))


def bmp(width: int, height: int, bits: int, pixels: bytes, *, masks: bytes = b"", palette: bytes = b"",
        compression: int | None = None) -> bytes:  # fmt: skip
    """A BMP of these lines, from the bottom up, each a multiple of four bytes long."""
    kind = compression if compression is not None else 3 if masks else 0
    offset = 54 + len(masks) + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, kind, len(pixels), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + header + masks + palette + pixels


def exif(
    orientation: int, *, kind: int = 3, order: str = ">", broken: tuple[int, int, int, int] | None = None
) -> bytes:
    """An EXIF block of one orientation, after a tag that is `broken`: (tag, type, count, value)."""
    entries = [(0x0112, kind, 1, orientation)]
    if broken:
        entries.insert(0, broken)
    letters = {1: "B3x", 3: "H2x", 4: "I", 6: "b3x", 8: "h2x", 9: "i"}
    body = b"".join(
        struct.pack(order + "HHI" + letters.get(form, "I"), tag, form, count, value)
        for tag, form, count, value in entries
    )
    start = b"II*\0" if order == "<" else b"MM\0*"
    return b"Exif\0\0" + start + struct.pack(order + "IH", 8, len(entries)) + body + b"\0\0\0\0"


def jpeg_segment(marker: int, data: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def gif(width: int, height: int, levels: bytes, *, end: bool = True) -> bytes:
    """A grey GIF whose codes are all of nine bits, since the table is cleared before it grows."""
    codes = []
    for place, level in enumerate(levels):
        if place % 200 == 0:
            codes.append(256)
        codes.append(level)
    bits = "".join(f"{code:09b}"[::-1] for code in [*codes, 257])
    data = bytes(int(bits[i : i + 8].ljust(8, "0")[::-1], 2) for i in range(0, len(bits), 8))
    blocks = b"".join(bytes([len(data[i : i + 255])]) + data[i : i + 255] for i in range(0, len(data), 255))
    palette = bytes(level for level in range(256) for _ in range(3))
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, 0, 0) + palette
    picture = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x08" + blocks
    return head + picture + (b"\0;" if end else b"")
