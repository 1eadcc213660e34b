"""PNG: every checksum and every row are checked; Pillow gets the pixels' chunks alone.

Texts, profiles and times do not reach Pillow, which refuses a sound picture because of them. The compressed stream
is unpacked here, as Pillow neither counts its rows nor compares its checksum.
"""

import io
import struct
import zlib
from dataclasses import dataclass, field, replace
from functools import partial

from PIL import Image

from troika.datasets.formats.opened import DamagedError, OpenedFile
from troika.datasets.formats.orientation import orientation_of

_BEGINNING = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type -> channels."""
_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
_GREY, _COLOUR = 0, 2
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of each pass of an interlaced picture: first column, first row, steps between columns and rows."""
_REPACKED = 2**24
"""Rows of up to so many bytes are given to Pillow unpacked; more would take too much memory."""
_STEP = 2**20
_MOST_TEXT = 2**20
_RAW_PROFILES = {b"Raw profile type exif", b"Raw profile type APP1"}


@dataclass
class _Chunks:
    header: bytes = b""
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
    width, height, depth, colour, compression, filters, interlace = struct.unpack(">IIBBBBB", chunks.header)
    if depth not in _DEPTHS.get(colour, ()) or compression or filters or interlace > 1 or not width * height:
        raise DamagedError("the PNG header is not one that the standard allows", "unreadable")
    lines = _lines(width, height, depth * _CHANNELS[colour], interlaced=bool(interlace))
    return OpenedFile(
        (width, height),
        partial(_decode, chunks, lines, depth, colour),
        chunks.frames,
        orientation_of(chunks.exif, chunks.xmp),
        deep=depth == 16,
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
    if kind == b"IHDR" and not found.header and len(data) == 13:
        found.header = bytes(data)
    elif not found.header:
        raise DamagedError("the PNG does not begin with a header", "unreadable")
    elif kind == b"PLTE":
        found.palette = bytes(data)
    elif kind == b"tRNS" and not found.data:
        found.transparency = bytes(data)
    elif kind == b"IDAT" and (not found.data or before == b"IDAT"):
        found.data.append(data)  # the standard wants them in a row; what comes later belongs to nothing


def _note_other(found: _Chunks, kind: bytes, data: memoryview) -> None:
    if kind == b"acTL" and len(data) == 8:
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


def _lines(width: int, height: int, bits: int, *, interlaced: bool) -> int:
    """Return the bytes of all rows, each with the byte that names its filter."""
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-((x - width) // dx), -((y - height) // dy)) for x, y, dx, dy in passes]
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)


def _decode(chunks: _Chunks, lines: int, depth: int, colour: int) -> Image.Image:
    packed = b"".join(chunks.data)
    if lines <= _REPACKED:
        packed = zlib.compress(_unpacked(packed, lines), 0)
    else:
        _check_stream(packed, lines)
    if chunks.wrong_checksum:
        raise DamagedError("a checksum of the pixels is wrong")
    image = _load(replace(chunks, transparency=_scaled(chunks.transparency, depth, colour)), packed)
    if depth == 16 and colour == _COLOUR and "transparency" in image.info:
        # Pillow keeps the upper eight bits of a pixel alone.
        image.info["transparency"] = tuple(level >> 8 for level in image.info["transparency"])
    return image


def _load(chunks: _Chunks, packed: bytes) -> Image.Image:
    parts = [(b"IHDR", chunks.header), (b"PLTE", chunks.palette), (b"tRNS", chunks.transparency)]
    written = b"".join(_chunk(kind, data) for kind, data in parts if data)
    file = io.BytesIO(_BEGINNING + written + _chunk(b"IDAT", packed) + _chunk(b"IEND", b""))
    with Image.open(file, formats=("PNG",)) as image:
        image.load()
        return image


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(data, zlib.crc32(kind)).to_bytes(4)


def _scaled(transparency: bytes, depth: int, colour: int) -> bytes:
    """Return a grey picture's transparent level as Pillow wants it, which scales pixels of 2 and 4 bits alone."""
    if colour != _GREY or depth not in (2, 4) or len(transparency) < 2:
        return transparency
    levels = 1 << depth
    return (int.from_bytes(transparency[:2]) % levels * (255 // (levels - 1))).to_bytes(2)


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
