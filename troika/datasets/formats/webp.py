"""WebP: lengths are checked, and Pillow gets the first picture's chunks alone."""

import io
import struct
from dataclasses import dataclass, field
from functools import partial

from PIL import Image

from troika.datasets.formats.opened import DamagedError, OpenedFile
from troika.datasets.formats.orientation import orientation_of

_PICTURE = {b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"}
_METADATA_BITS = 0x20 | 0x08 | 0x04
"""Of the first byte of VP8X: a profile, EXIF, XMP follow."""


def open_webp(content: bytes) -> OpenedFile:
    """Read the chunks of a WebP.

    Raises:
        DamagedError: the file ends too early, or holds no picture.
    """
    total = 8 + int.from_bytes(content[4:8], "little")
    if total > len(content):
        raise DamagedError("the file ends before the end of the WebP")
    found = _read_chunks(content, total)
    if found.size is None:
        raise DamagedError("the WebP holds no picture", "unreadable")
    orientation = orientation_of(found.metadata.get(b"EXIF"), found.metadata.get(b"XMP "))
    return OpenedFile(found.size, partial(_decode, found.kept), max(1, found.frames), orientation)


@dataclass
class _Chunks:
    kept: list[bytes] = field(default_factory=list)
    size: tuple[int, int] | None = None
    frames: int = 0
    metadata: dict[bytes, bytes] = field(default_factory=dict)


def _read_chunks(content: bytes, total: int) -> _Chunks:
    found, place = _Chunks(), 12
    while place + 8 <= total:
        kind, length = struct.unpack_from("<4sI", content, place)
        end = place + 8 + length
        if end > total:
            raise DamagedError("the file ends within a chunk of the WebP")
        data = content[place + 8 : end]
        if kind == b"VP8X" and not found.kept and length >= 10:
            found.size = (int.from_bytes(data[4:7], "little") + 1, int.from_bytes(data[7:10], "little") + 1)
            found.kept.append(_chunk(kind, bytes([data[0] & ~_METADATA_BITS]) + data[1:]))
        elif kind in _PICTURE:
            found.frames += kind == b"ANMF"
            if found.frames <= 1:
                found.kept.append(_chunk(kind, data))
            found.size = found.size or _size(kind, data)
        elif kind in (b"EXIF", b"XMP "):
            found.metadata.setdefault(kind, data)
        place = end + length % 2
    return found


def _size(kind: bytes, data: bytes) -> tuple[int, int] | None:
    if kind == b"VP8 " and data[3:6] == b"\x9d\x01\x2a" and len(data) >= 10:
        width, height = struct.unpack_from("<HH", data, 6)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and data[:1] == b"\x2f" and len(data) >= 5:
        bits = int.from_bytes(data[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def _decode(kept: list[bytes]) -> Image.Image:
    inside = b"WEBP" + b"".join(kept)
    try:
        with Image.open(io.BytesIO(b"RIFF" + struct.pack("<I", len(inside)) + inside), formats=("WEBP",)) as image:
            image.load()
            return image
    except (OSError, EOFError, ValueError) as error:
        raise DamagedError(f"the pixels of the WebP are cut short or damaged: {error}") from None
