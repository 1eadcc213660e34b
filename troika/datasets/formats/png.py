"""PNG: every checksum and every row are checked, and Pillow's decoder gets the rows alone.

Texts, profiles and times do not reach Pillow, which refuses a sound picture because of them. The compressed stream
is unpacked here, as Pillow does not count its rows; to hand it on unpacked costs less than to open a file would.
"""

import struct
import zlib
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from PIL import Image

from troika.datasets.formats.opened import DamagedError, OpenedFile
from troika.datasets.formats.orientation import orientation_of

_BEGINNING = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type -> channels."""
_GREY, _COLOUR, _PALETTE = 0, 2, 3
_MODES = {
    (1, 0): ("1", "1"), (2, 0): ("L", "L;2"), (4, 0): ("L", "L;4"), (8, 0): ("L", "L"), (16, 0): ("I;16", "I;16B"),
    (8, 2): ("RGB", "RGB"), (16, 2): ("RGB", "RGB;16B"),
    (1, 3): ("P", "P;1"), (2, 3): ("P", "P;2"), (4, 3): ("P", "P;4"), (8, 3): ("P", "P"),
    (8, 4): ("LA", "LA"), (16, 4): ("RGBA", "LA;16B"), (8, 6): ("RGBA", "RGBA"), (16, 6): ("RGBA", "RGBA;16B"),
}  # fmt: skip
"""Depth and colour type -> Pillow's mode, and its name for how pixels are stored."""
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of each pass of an interlaced picture: first column, first row, steps between columns and rows."""
_REPACKED = 2**24
"""Rows of up to so many bytes are given to Pillow unpacked; more would take too much memory."""
_STEP = 2**20
_MOST_TEXT = 2**20
_RAW_PROFILES = {b"Raw profile type exif", b"Raw profile type APP1"}


class _Header(NamedTuple):
    width: int
    height: int
    depth: int
    colour: int
    compression: int
    filters: int
    interlace: int


_NO_HEADER = _Header(0, 0, 0, 0, 0, 0, 0)


@dataclass
class _Chunks:
    header: _Header = _NO_HEADER
    palette: bytes = b""
    transparency: bytes = b""
    data: list[memoryview] = field(default_factory=list)
    wrong_checksum: bool = False
    """Of the pixels. If they cannot be unpacked either, that is what is told."""
    frames: int = 1
    exif: bytes | None = None
    xmp: bytes | None = None


def open_png(content: bytes) -> OpenedFile:
    """Read the chunks of a PNG.

    Raises:
        DamagedError: the file ends too early, or a chunk that pixels depend on is wrong.
    """
    chunks = _read_chunks(content)
    header = chunks.header
    if (header.depth, header.colour) not in _MODES or not header.width * header.height:
        raise DamagedError("the PNG header is not one that the standard allows", "unreadable")
    if header.compression or header.filters or header.interlace > 1:
        raise DamagedError("the PNG is compressed in a way that the standard does not know", "unreadable")
    if header.colour == _PALETTE and not chunks.palette:
        raise DamagedError("the PNG has colours by palette and no palette", "unreadable")
    return OpenedFile(
        (header.width, header.height),
        partial(_decode, chunks, _lines(header)),
        chunks.frames,
        orientation_of(chunks.exif, chunks.xmp),
        deep=header.depth == 16,
    )


def _read_chunks(content: bytes) -> _Chunks:
    """Return what pixels and orientation depend on; what follows the end of the PNG does not matter."""
    found, view, place, before, kind = _Chunks(), memoryview(content), 8, b"", b""
    if not content.startswith(_BEGINNING):
        raise DamagedError("the PNG signature is damaged", "unreadable")
    while kind != b"IEND":
        before = kind
        if place + 12 > len(content):
            raise DamagedError("the file ends before the end of the PNG")
        length, kind = struct.unpack_from(">I4s", content, place)
        end = place + 8 + length
        if not kind.isalpha():
            raise DamagedError("bytes that are no PNG chunk", "unreadable")
        if end + 4 > len(content):
            raise DamagedError(f"the file ends within chunk {kind.decode('latin-1')}")
        if kind[:1].isupper() or kind == b"tRNS":
            if zlib.crc32(view[place + 4 : end]) != int.from_bytes(view[end : end + 4]):
                if kind not in (b"IDAT", b"IEND"):
                    raise DamagedError(f"the checksum of chunk {kind.decode('latin-1')} is wrong", "unreadable")
                found.wrong_checksum = True
            _note_pixels(found, kind, before, view[place + 8 : end])
        else:
            _note_other(found, kind, view[place + 8 : end])
        place = end + 4
    if not found.data:
        raise DamagedError("the PNG holds no pixels")
    return found


def _note_pixels(found: _Chunks, kind: bytes, before: bytes, data: memoryview) -> None:
    if kind == b"IHDR" and found.header is _NO_HEADER and len(data) == 13:
        found.header = _Header._make(struct.unpack(">IIBBBBB", data))
    elif found.header is _NO_HEADER:
        raise DamagedError("the PNG does not begin with a header", "unreadable")
    elif kind == b"PLTE":
        found.palette = bytes(data)
    elif kind == b"tRNS" and not found.data:
        found.transparency = bytes(data)
    elif kind == b"IDAT" and (not found.data or before == b"IDAT"):
        found.data.append(data)  # the standard wants them in a row; what comes later belongs to nothing


def _note_other(found: _Chunks, kind: bytes, data: memoryview) -> None:
    if kind == b"acTL" and len(data) == 8 and not found.data:
        found.frames = max(1, int.from_bytes(data[:4]))
    elif kind == b"eXIf":
        found.exif = bytes(data)
    elif kind in (b"tEXt", b"zTXt", b"iTXt") and len(data) <= _MOST_TEXT:
        key, _, rest = bytes(data).partition(b"\0")
        if key in _RAW_PROFILES and found.exif is None:
            found.exif = _raw_profile(_text(kind, rest))
        elif key == b"XML:com.adobe.xmp":
            found.xmp = _text(kind, rest)


def _text(kind: bytes, data: bytes) -> bytes:
    """Return a text without its key; nothing where it cannot be unpacked, and no more than a megabyte."""
    packed = kind == b"zTXt"
    if kind == b"zTXt":
        data = data[1:]
    elif kind == b"iTXt":
        packed, data = data[:1] == b"\1", b"".join(data[2:].split(b"\0", 2)[2:])
    if not packed:
        return data
    try:
        return zlib.decompressobj().decompress(data, _MOST_TEXT)
    except zlib.error:
        return b""


def _raw_profile(text: bytes) -> bytes:
    """Return the bytes of a profile that ImageMagick wrote: its name, its length, hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(text.split()[2:]).decode("ascii"))
    except ValueError:
        return b""


def _lines(header: _Header) -> int:
    """Return the bytes of all rows, each with the byte that names its filter."""
    passes = _ADAM7 if header.interlace else ((0, 0, 1, 1),)
    bits = header.depth * _CHANNELS[header.colour]
    sizes = [(-((x - header.width) // dx), -((y - header.height) // dy)) for x, y, dx, dy in passes]
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)


def _decode(chunks: _Chunks, lines: int) -> Image.Image:
    header = chunks.header
    packed = b"".join(chunks.data)
    if lines <= _REPACKED:
        packed = zlib.compress(_unpacked(packed, lines), 0)
    else:
        _check_stream(packed, lines)
    if chunks.wrong_checksum:
        raise DamagedError("a checksum of the pixels is wrong")
    mode, raw_mode = _MODES[header.depth, header.colour]
    try:
        image = Image.frombytes(mode, (header.width, header.height), packed, "zip", raw_mode, header.interlace)
    except ValueError:
        raise DamagedError("a row of the PNG names a filter that there is not", "unreadable") from None
    if mode == "P":
        image.putpalette(chunks.palette)
    if chunks.transparency:
        _set_transparency(image, chunks.transparency, header)
    return image


def _set_transparency(image: Image.Image, levels: bytes, header: _Header) -> None:
    """Let Pillow know which colours are transparent, on the scale of its pixels."""
    if header.colour == _PALETTE:
        image.info["transparency"] = levels
    elif header.colour == _GREY and len(levels) >= 2:
        level = int.from_bytes(levels[:2])
        image.info["transparency"] = level if header.depth == 16 else level * (255 // ((1 << header.depth) - 1))
    elif header.colour == _COLOUR and len(levels) >= 6:
        # Of 16 bits, Pillow keeps a pixel's upper eight.
        shift = header.depth - 8
        image.info["transparency"] = tuple(level >> shift for level in struct.unpack(">HHH", levels[:6]))


def _unpacked(packed: bytes, lines: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        rows = unpacker.decompress(packed, lines + 1)
    except zlib.error as error:
        raise DamagedError(f"the stream of pixels is damaged: {error}", "unreadable") from None
    _check_end(len(rows), lines, ended=unpacker.eof)
    return rows[:lines]


def _check_stream(packed: bytes, lines: int) -> None:
    """Unpack without keeping anything."""
    unpacker, count, rest = zlib.decompressobj(), 0, packed
    try:
        while count <= lines and not unpacker.eof:
            rows = unpacker.decompress(rest, _STEP)
            if not rows and not unpacker.eof:
                break
            count, rest = count + len(rows), unpacker.unconsumed_tail
    except zlib.error as error:
        raise DamagedError(f"the stream of pixels is damaged: {error}", "unreadable") from None
    _check_end(count, lines, ended=unpacker.eof)


def _check_end(count: int, lines: int, *, ended: bool) -> None:
    """More than there should be is passed over, as all viewers do."""
    if count < lines:
        raise DamagedError(f"pixels are missing: the stream holds {count:,} of {lines:,} bytes")
    if count == lines and not ended:
        raise DamagedError("the stream of pixels ends before its checksum")
