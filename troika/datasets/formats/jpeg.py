"""JPEG: decoded by simplejpeg, which tells what libjpeg warns of; Pillow does not, and takes half a picture.

Both have libjpeg-turbo, asked for the same exact transforms, so pixels are Pillow's. The decoder gets tables,
frame and scans of the first picture alone: EXIF, profiles, comments, thumbnails and the further pictures of a
phone do not reach it.
"""

import io
import re
import struct
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from troika.datasets.formats.opened import DamagedError, OpenedFile
from troika.datasets.formats.orientation import orientation_of

_BEGINNING, _END = b"\xff\xd8", b"\xff\xd9"
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xCA}
_TABLES = {0xC4, 0xCC, 0xDB, 0xDD}
_SCAN, _JFIF, _APP1, _ADOBE = 0xDA, 0xE0, 0xE1, 0xEE
_ALONE = {0x01, *range(0xD0, 0xD8)}
"""Markers without a segment."""
_AFTER_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_PLAIN_JFIF = b"\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_DAMAGE = ("Corrupt JPEG", "Premature end", "Inconsistent progression")
"""How libjpeg's warnings begin that are about pixels."""
_PADDING = re.compile(r"(\d+) extraneous bytes before marker 0xd9")


@dataclass
class _Segments:
    kept: list[bytes | memoryview] = field(default_factory=lambda: [_BEGINNING])
    frame: bytes = b""
    progressive: bool = False
    scans: list[bytes] = field(default_factory=list)
    exif: bytes | None = None
    xmp: bytes | None = None


def open_jpeg(content: bytes) -> OpenedFile:
    """Read the segments of a JPEG's first picture.

    Raises:
        DamagedError: the file ends too early, scans are missing, or it is of a kind that is not read.
    """
    found = _read_segments(content)
    bits, height, width, channels = struct.unpack_from(">BHHB", found.frame)
    if bits != 8:
        raise DamagedError(f"a JPEG of {bits} bits a channel, which is not read", "unreadable")
    if channels not in (1, 3, 4) or len(found.frame) < 6 + 3 * channels or not width * height:
        raise DamagedError(
            f"a JPEG of {width} x {height} pixels and {channels} channels is not read", "unreadable"
        )
    _check_scans(found, channels)
    return OpenedFile(
        (width, height),
        partial(_decode, found, channels),
        orientation=orientation_of(found.exif, found.xmp),
    )


def _read_segments(content: bytes) -> _Segments:
    found, view, place = _Segments(), memoryview(content), 2
    while True:
        marker, place = _next_marker(content, place)
        if marker == _END[1]:
            break
        length = int.from_bytes(content[place : place + 2])
        end = place + length
        if end > len(content):
            raise DamagedError("the file ends within a segment of the JPEG")
        if length < 2:
            raise DamagedError("a segment of the JPEG has no length", "unreadable")
        segment = content[place + 2 : end]
        if marker == _SCAN:
            match = _AFTER_SCAN.search(content, end)
            if match is None:
                raise DamagedError("the file ends within the pixels of the JPEG")
            _note_scan(found, segment, view[end : match.start()])
            end = match.end() - 2
        else:
            _note_segment(found, marker, segment)
        place = end
    if not found.frame:
        raise DamagedError("the JPEG holds no picture", "unreadable")
    return found


def _next_marker(content: bytes, place: int) -> tuple[int, int]:
    """Return a marker that has a segment, or the end's, and the place behind it."""
    while place + 2 <= len(content):
        filler, marker = content[place], content[place + 1]
        if filler != 0xFF:
            raise DamagedError("bytes between the segments of the JPEG", "unreadable")
        if marker == _BEGINNING[1]:
            raise DamagedError("the JPEG begins anew before its end")
        if marker not in _ALONE and marker != 0xFF:
            return marker, place + 2
        place += 1 if marker == 0xFF else 2
    raise DamagedError("the file ends before the end of the JPEG")


def _note_segment(found: _Segments, marker: int, segment: bytes) -> None:
    whole = struct.pack(">BBH", 0xFF, marker, len(segment) + 2) + segment
    if marker in _FRAMES:
        if found.frame or len(segment) < 6:
            raise DamagedError("the JPEG has two frames, or half of one", "unreadable")
        found.frame, found.progressive = segment, marker in _PROGRESSIVE
        found.kept.append(whole)
    elif marker in _TABLES:
        found.kept.append(whole)
    elif marker == _JFIF and segment.startswith(b"JFIF\0") and len(segment) >= 14:
        found.kept.append(_PLAIN_JFIF)
    elif marker == _ADOBE and segment.startswith(b"Adobe") and len(segment) >= 12:
        found.kept.append(whole)
    elif marker == _APP1 and segment.startswith(b"Exif\0\0") and found.exif is None:
        found.exif = segment
    elif marker == _APP1 and segment.startswith(_XMP) and found.xmp is None:
        found.xmp = segment


def _note_scan(found: _Segments, segment: bytes, data: memoryview) -> None:
    if len(segment) < 4 or len(segment) != 4 + 2 * segment[0]:
        raise DamagedError("a scan of the JPEG has a damaged header", "unreadable")
    if not found.progressive:
        # Some encoders write others than the only ones that mean anything there; libjpeg warns and reads on.
        segment = segment[:-3] + b"\0\x3f\0"
    found.scans.append(segment)
    found.kept += [struct.pack(">BBH", 0xFF, _SCAN, len(segment) + 2) + segment, data]


def _check_scans(found: _Segments, channels: int) -> None:
    """Raise DamagedError unless scans bring every coefficient of every channel to its last bit.

    libjpeg does not say when the last scans of a progressive picture are missing.
    """
    missing = {found.frame[6 + 3 * channel]: np.ones(64, np.bool_) for channel in range(channels)}
    for scan in found.scans:
        first, last, bits = scan[-3:]
        for name in scan[1:-3:2]:
            if bits & 15 == 0 and name in missing:
                missing[name][first : last + 1] = False
    if any(coefficients.any() for coefficients in missing.values()):
        raise DamagedError("scans of the JPEG are missing")


def _decode(found: _Segments, channels: int) -> Image.Image | NDArray[np.uint8]:
    import simplejpeg  # noqa: PLC0415 - only worker processes and small folders need it

    content = b"".join([*found.kept, _END])
    decode = partial(
        simplejpeg.decode_jpeg,
        content,
        {1: "GRAY", 3: "RGB", 4: "CMYK"}[channels],
        fastdct=False,
        fastupsample=False,
    )
    try:
        pixels: NDArray[np.uint8] = decode(strict=True)
    except ValueError as error:
        text = str(error)
        if "subsampling" in text:
            return _by_pillow(content)
        if not _is_sound(text, found.kept[-1]):
            raise DamagedError(text, "truncated" if text.startswith(_DAMAGE) else "unreadable") from None
        pixels = decode(strict=False)
    if channels == 4:
        return Image.fromarray(255 - pixels, "CMYK")  # as Adobe writes them, and everybody after it
    return pixels.reshape(pixels.shape[:2]) if channels == 1 else pixels


def _is_sound(warning: str, data: bytes | memoryview) -> bool:
    """Return whether libjpeg warned of something that is not pixels: padding before the end, or colour codes."""
    match = _PADDING.search(warning)
    return bool(match and len(set(data[-int(match[1]) :])) == 1) or "Adobe" in warning


def _by_pillow(content: bytes) -> Image.Image:
    """Return a picture whose channels are sampled in a way that simplejpeg does not know."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            image.load()
            return image
    except UnidentifiedImageError:
        raise DamagedError("the frame of the JPEG is damaged", "unreadable") from None
