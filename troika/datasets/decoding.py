"""One image file -> pixels of the wanted form, or what is wrong with it.

Does not know folders and classes; sources/folder.py does.
"""

import io
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from troika.datasets.facts import Facts, facts_of
from troika.datasets.plain_jpeg import decode_plain_jpeg
from troika.datasets.plain_png import decode_plain_png
from troika.datasets.plain_webp import decode_plain_webp
from troika.datasets.problems import Policies

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_SMALL_BYTES = 2**24
"""A file of up to so many bytes is read at once, as the short ways for plain files want it."""
_DECODE_PLAIN = {b"\xff\xd8": decode_plain_jpeg, b"\x89P": decode_plain_png, b"RI": decode_plain_webp}
"""A file's first two bytes -> the short way."""
_EXIF_KEYS = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    TypeError,
    struct.error,
    zlib.error,
    MemoryError,
)
"""What Pillow's readers raise for damaged files."""


@dataclass(frozen=True)
class Form:
    """What images are to become."""

    size: tuple[int, int]
    """(width, height)."""
    scale: bool
    """Cut to the aspect ratio and scale; otherwise another size is a problem."""
    channels: Literal[1, 3]
    colour_allowed: bool
    """False: with one channel, a colour image is a surprise (`Decoded.colour`), not turned to grey."""
    max_pixels: int
    policies: Policies


@dataclass(frozen=True)
class Note:
    """A problem of the file at a position in the list that was decoded."""

    position: int
    problem: str
    detail: str


@dataclass(frozen=True)
class Decoded:
    """Of a list of files."""

    images: NDArray[np.uint8]
    """(n, H, W, C): those that can be used."""
    positions: NDArray[np.int64]
    """(n,): where they stand in the list."""
    facts: Facts
    notes: list[Note]
    sizes: list[tuple[int, int]]
    """(width, height) of every file that could be opened."""
    colour: bool
    """An image in colour turned up where none was expected."""


class _Unusable(Exception):  # noqa: N818 - never leaves this file
    def __init__(self, problem: str, detail: str) -> None:
        super().__init__(problem)
        self.problem, self.detail = problem, detail


class _Colour(Exception):  # noqa: N818 - never leaves this file
    pass


def decode_files(paths: Sequence[str], form: Form, into: NDArray[np.uint8] | None = None) -> Decoded:
    """Decode files one after another; runs in worker processes.

    Args:
        paths: of the files.
        form: what they are to become.
        into: uint8 (len(paths) or more, H, W, C) for the pixels, which `images` of the result is a part of then.
    """
    width, height = form.size
    images = np.empty((len(paths), height, width, form.channels), np.uint8) if into is None else into
    positions: list[int] = []
    notes: list[Note] = []
    sizes: list[tuple[int, int]] = []
    with warnings.catch_warnings():
        # Pillow warns of damaged metadata, too; what matters is whether there are pixels.
        warnings.simplefilter("ignore")
        for position, path in enumerate(paths):
            mine: list[tuple[str, str]] = []
            try:
                images[len(positions)] = _decode(path, form, mine, sizes)
            except _Unusable as error:
                notes.append(Note(position, error.problem, error.detail))
                continue
            except _Colour:
                return Decoded(images[:0], np.empty(0, np.int64), facts_of(images[:0]), [], [], colour=True)
            notes += [Note(position, problem, detail) for problem, detail in mine]
            positions.append(position)
    kept = images[: len(positions)]
    return Decoded(kept, np.array(positions, np.int64), facts_of(kept), notes, sizes, colour=False)


def size_of(path: str, max_pixels: int) -> tuple[int, int] | None:
    """(width, height) from a file's first bytes; None if it is no image that may be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - faster
            return None
        with Image.open(path, formats=FORMATS) as image:
            return image.size if image.width * image.height <= max_pixels else None
    except (*_DAMAGED, UnidentifiedImageError, Image.DecompressionBombError):
        return None


def _decode(path: str, form: Form, mine: list[tuple[str, str]], sizes: list[tuple[int, int]]) -> NDArray[np.uint8]:
    def problem(name: str, detail: str) -> None:
        """The image is not used, or is with a note, as the policy says."""
        if getattr(form.policies, name) != "warn":
            raise _Unusable(name, detail)
        mine.append((name, detail))

    try:
        about = os.stat(path)  # noqa: PTH116 - faster
        if not stat.S_ISREG(about.st_mode):
            # To open a pipe would wait for ever.
            raise _Unusable("unreadable", "a pipe, socket, device or folder, not a file")
        content = _read(path, about.st_size) if about.st_size <= _SMALL_BYTES else None
        if content is not None and form.size[0] * form.size[1] <= form.max_pixels:
            decode_plain = _DECODE_PLAIN.get(content[:2])
            pixels = decode_plain(content, form.size, form.channels) if decode_plain else None
            if pixels is not None:
                sizes.append(form.size)
                return pixels
        with Image.open(path if content is None else io.BytesIO(content), formats=FORMATS) as image:
            sizes.append(image.size)
            if image.width * image.height > form.max_pixels:
                raise _Unusable(
                    "oversized", f"{image.width} x {image.height} pixels, more than {form.max_pixels:,}"
                )
            if getattr(image, "is_animated", False):
                problem("animated", f"{getattr(image, 'n_frames', 'several')} pictures in one file")
            deep = _is_deep(image)
            image.load()
            picture = _upright(image, problem)
            picture = _eight_bits(picture, deep, problem)
            picture = _sized(picture, form, problem)
            if form.channels == 1 and not form.colour_allowed and picture.mode != "L":
                raise _Colour
            mode = "L" if form.channels == 1 else "RGB"
            if picture.mode != mode:  # to the same mode, Pillow would copy
                picture = picture.convert(mode)
    except UnidentifiedImageError:
        if Path(path).stat().st_size == 0:
            raise _Unusable("empty_file", "the file is empty") from None
        raise _Unusable("unreadable", f"not an image of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError as error:
        raise _Unusable("oversized", str(error)) from None
    except _DAMAGED as error:
        text = str(error) or type(error).__name__
        name = "truncated" if "truncated" in text.lower() else "unreadable"
        raise _Unusable(name, text.replace(path, Path(path).name)) from None
    # Not np.asarray, which asks first what the array is to look like.
    return np.frombuffer(picture.tobytes(), np.uint8).reshape(*picture.size[::-1], form.channels)


def _read(path: str, size: int) -> bytes:
    """The whole content of a file that should have so many bytes, by as few calls of the system as can be."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(file, size + 1)
    finally:
        os.close(file)
    return content if len(content) == size else Path(path).read_bytes()


def _is_deep(image: Image.Image) -> bool:
    """More than 8 bits a channel. Pillow cuts RGB of 16 bits down in silence: its raw mode tells."""
    tiles: Any = getattr(image, "tile", None) or []
    return image.mode in ("I", "F") or image.mode.startswith("I;16") or any("16" in str(tile[3]) for tile in tiles)


def _upright(image: Image.Image, problem: Any) -> Image.Image:
    if not any(key in image.info for key in _EXIF_KEYS):
        return image
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation in (0, 1):
        return image
    problem("exif_rotated", f"EXIF orientation {orientation}")
    return ImageOps.exif_transpose(image)


def _eight_bits(image: Image.Image, deep: bool, problem: Any) -> Image.Image:
    """The image in mode L or RGB."""
    if deep:
        problem("sixteen_bit", "more than 8 bits a channel")
        if image.mode in {"F", "I"} or image.mode.startswith("I;16"):
            values = np.asarray(image, np.float64)
            image = Image.fromarray(np.rint(np.clip(values, 0, 65535) / 257).astype(np.uint8))
    if image.mode in ("CMYK", "YCCK"):
        problem("cmyk", "printing colours, which have no exact form on a screen")
        return image.convert("RGB")
    transparent = image.has_transparency_data
    if image.mode in ("P", "PA"):
        problem("palette", "colours by palette")
        if not transparent:
            image = image.convert("RGB")
            return _grey_if_equal(image)
    if transparent:
        whole = image.convert("RGBA")
        if whole.getchannel("A").tobytes().strip(b"\xff"):
            problem("transparent", "some pixels are not opaque")
            white = Image.new("RGBA", whole.size, "white")
            whole = Image.alpha_composite(white, whole)
        grey = image.mode in ("LA", "La", "L", "1")
        image = whole.convert("RGB")
        return image.convert("L") if grey else _grey_if_equal(image)
    if image.mode == "1":
        return image.convert("L")
    if image.mode not in ("L", "RGB"):
        return image.convert("RGB")
    return image


def _grey_if_equal(image: Image.Image) -> Image.Image:
    """An RGB picture without colour, as from a grey palette, in mode L; otherwise as it is."""
    red, green, blue = image.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():
        return red
    return image


def _sized(image: Image.Image, form: Form, problem: Any) -> Image.Image:
    if image.size == form.size:
        return image
    width, height = form.size
    if not form.scale:
        raise _Unusable(
            "other_size",
            f"{image.width} x {image.height} pixels, others have {width} x {height}; set image_size to scale all",
        )
    if image.width < width or image.height < height:
        problem("too_small", f"{image.width} x {image.height} pixels would be enlarged to {width} x {height}")
    return ImageOps.fit(image, form.size, Image.Resampling.LANCZOS)
