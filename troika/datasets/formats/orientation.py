"""The orientation of a picture, read from EXIF or XMP and nothing else of them.

Whatever is wrong with other tags does not matter, so Pillow's reader of EXIF is not asked: it fails on them.
"""

import re
import struct

from PIL import Image

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation -> what turns the picture upright."""
_TAG = 0x0112
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
"""TIFF's number of a type -> struct's letter."""
_IN_XMP = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([1-8])")


def orientation_of(exif: bytes | None, xmp: bytes | None = None) -> int:
    """Return 1 to 8; 1, upright, where neither says anything that can be read. EXIF decides if it has the tag."""
    found = _from_exif(exif) if exif else None
    if found is not None:
        return found if found in TURNS else 1
    match = _IN_XMP.search(xmp) if xmp else None
    return int(match[1]) if match else 1


def _from_exif(exif: bytes) -> int | None:
    """Return the first directory's tag; None where there is none, or the block is broken before it."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return None
    try:
        (place,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, place)
        for entry in range(place + 2, place + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(order + "HHI", exif, entry)
            if tag != _TAG or kind not in _INTEGERS:
                continue
            letter = order + _INTEGERS[kind]
            inside = values * struct.calcsize(letter) <= 4
            where = entry + 8 if inside else struct.unpack_from(order + "I", exif, entry + 8)[0]
            return int(struct.unpack_from(letter, exif, where)[0])
    except struct.error:
        pass  # the block ends before the tag
    return None
