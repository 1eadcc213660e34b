"""Measure how much faster a decoder beside Pillow makes `prepare_data`: the whole step with and without it.

Each contender takes the place of one format's last stage, after the container has been checked. All is done by
one process on one core, as worker processes would import the module anew. Packages that are not installed
(`pip install pyspng-seunglab==1.1.3 webp==0.4.0`) are left out.
"""

import importlib.util
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

SHORT_WAYS = {"png": ("Pillow", "pyspng"), "jpg": ("Pillow", "simplejpeg"), "webp": ("Pillow", "webp")}
"""Format -> contenders; the first is what the others are held against."""


def contenders(suffix: str) -> list[str]:
    """Return those of a format that are installed."""
    return [name for name in SHORT_WAYS[suffix] if name == "Pillow" or importlib.util.find_spec(name)]


@contextmanager
def decoding_by(name: str, suffix: str) -> Iterator[None]:
    """Decode files of this format by `name`, on one core of this process."""
    from troika.datasets.formats import jpeg, png, webp

    module, attribute, put = {
        ("png", "pyspng"): (png, "_decode", _png_by_pyspng),
        ("jpg", "Pillow"): (jpeg, "_decode", _jpeg_by_pillow),
        ("webp", "webp"): (webp, "_decode", _webp_by_webp),
    }.get((suffix, name), (None, "", None))
    cores, before = os.sched_getaffinity(0), getattr(module, attribute, None)
    os.sched_setaffinity(0, {min(cores)})
    try:
        if module:
            setattr(module, attribute, put)
        yield
    finally:
        os.sched_setaffinity(0, cores)
        if module:
            setattr(module, attribute, before)


def _png_by_pyspng(chunks: Any, lines: int) -> Any:
    import pyspng  # type: ignore[import-not-found, import-untyped, unused-ignore]

    from troika.datasets.formats import png

    packed = zlib.compress(png._unpacked(b"".join(chunks.data), lines), 0)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", *chunks.header)), (b"IDAT", packed), (b"IEND", b"")]
    content = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return pyspng.load(b"\x89PNG\r\n\x1a\n" + b"".join(content))


def _jpeg_by_pillow(found: Any, _channels: int) -> Any:
    from troika.datasets.formats import jpeg

    return jpeg._by_pillow(b"".join([*found.kept, jpeg._END]))


def _webp_by_webp(kept: list[bytes]) -> Any:
    import webp  # type: ignore[import-not-found, import-untyped, unused-ignore]

    inside = b"WEBP" + b"".join(kept)
    content = b"RIFF" + len(inside).to_bytes(4, "little") + inside
    return np.asarray(webp.WebPData.from_buffer(content).decode(color_mode=webp.WebPColorMode.RGB))
