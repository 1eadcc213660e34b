"""One image file -> pixels of the wanted form, or what is wrong with it.

Does not know folders and classes; sources/folder.py does.
"""

import os
import stat
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from troika.datasets.facts import Facts, facts_of
from troika.datasets.formats import HEAD, NAMES, DamagedError, OpenedFile, find_format
from troika.datasets.formats.orientation import TURNS
from troika.datasets.problems import Policies

_SMALL_BYTES = 2**24
"""A file of up to so many bytes is read by one call."""
_MOST_BYTES = 2**30
"""A larger file is not read."""
_LFS_POINTER = b"version https://git-lfs"
_MOST_WORDS = 300
"""Characters that are kept of an exception's text."""
Problem = Callable[[str, str], None]


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
    """(width, height) of a file's picture, turned upright; None if it is no image that may be read."""
    try:
        width, height = (opened := _open(path)).size
    except Exception:
        return None
    if width * height > max_pixels:
        return None
    return (height, width) if opened.orientation >= 5 else (width, height)


def _decode(path: str, form: Form, mine: list[tuple[str, str]], sizes: list[tuple[int, int]]) -> NDArray[np.uint8]:
    """Return the pixels of one file; raises _Unusable or _Colour and nothing else: no single file ends a run."""
    try:
        return _decode_opened(_open(path), form, mine, sizes)
    except (_Unusable, _Colour):
        raise
    except DamagedError as error:
        raise _Unusable(error.problem, error.detail) from None
    except Image.DecompressionBombError as error:
        raise _Unusable("oversized", str(error)) from None
    except Exception as error:
        text = str(error).replace(path, Path(path).name)[:_MOST_WORDS]
        text = text.encode(errors="backslashreplace").decode()  # a file's name may be no UTF-8
        if isinstance(error, OSError) and "truncated" in text.lower():
            raise _Unusable("truncated", text) from None
        name = type(error).__name__
        raise _Unusable("unreadable", f"{name}: {text}" if text else name) from None


def _open(path: str) -> OpenedFile:
    about = os.stat(path)  # noqa: PTH116 - faster
    if not stat.S_ISREG(about.st_mode):
        # To open a pipe would wait for ever.
        raise _Unusable("unreadable", "a pipe, socket, device or folder, not a file")
    if about.st_size == 0:
        raise _Unusable("empty_file", "the file is empty")
    content = _read(path, about.st_size)
    find = find_format(content[:HEAD])
    if find is None:
        if content.startswith(_LFS_POINTER):
            raise _Unusable("unreadable", "a pointer to Git LFS, not the image; run `git lfs pull` where it lies")
        raise _Unusable("unreadable", f"not an image of {', '.join(NAMES)}")
    return find(content)


def _read(path: str, size: int) -> bytes:
    """The whole content of a file that should have so many bytes, by as few calls of the system as can be."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(file, min(size + 1, _SMALL_BYTES))
    finally:
        os.close(file)
    if len(content) == size:
        return content
    if size > _SMALL_BYTES and find_format(content[:HEAD]) is None:
        return content[:HEAD]  # a film or an archive
    if size > _MOST_BYTES:
        raise _Unusable("oversized", f"a file of {size / 1e9:.1f} GB")
    return Path(path).read_bytes()


def _decode_opened(
    opened: OpenedFile, form: Form, mine: list[tuple[str, str]], sizes: list[tuple[int, int]]
) -> NDArray[np.uint8]:
    def problem(name: str, detail: str) -> None:
        """The image is not used, or is with a note, as the policy says."""
        if getattr(form.policies, name) != "warn":
            raise _Unusable(name, detail)
        mine.append((name, detail))

    width, height = opened.size
    sizes.append(opened.size)
    if width * height > form.max_pixels:
        raise _Unusable("oversized", f"{width} x {height} pixels, more than {form.max_pixels:,}")
    if opened.frames > 1:
        problem("animated", "several pictures in one file, shown one after another")
    picture = opened.decode()
    if isinstance(picture, np.ndarray):
        channels = 1 if picture.ndim == 2 else 3
        if opened.size == form.size and opened.orientation == 1 and channels == form.channels:
            return picture.reshape(height, width, channels)
        picture = Image.fromarray(picture)
    if opened.orientation in TURNS:
        problem("exif_rotated", f"EXIF orientation {opened.orientation}")
        picture = picture.transpose(TURNS[opened.orientation])
    picture = _eight_bits(picture, opened.deep, problem)
    picture = _sized(picture, form, problem)
    if form.channels == 1 and not form.colour_allowed and picture.mode != "L":
        raise _Colour
    mode = "L" if form.channels == 1 else "RGB"
    if picture.mode != mode:  # to the same mode, Pillow would copy
        picture = picture.convert(mode)
    # Not np.asarray, which asks first what the array is to look like.
    return np.frombuffer(picture.tobytes(), np.uint8).reshape(*picture.size[::-1], form.channels)


def _eight_bits(image: Image.Image, deep: bool, problem: Problem) -> Image.Image:
    """The image in mode L or RGB."""
    if deep:
        problem("sixteen_bit", "more than 8 bits a channel")
        if image.mode.startswith("I"):
            values = np.asarray(image, np.float64)
            grey = Image.fromarray(np.rint(np.clip(values, 0, 65535) / 257).astype(np.uint8))
            level = image.info.get("transparency")
            image = grey if level is None else Image.merge("LA", (grey, Image.fromarray(_unlike(values, level))))
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
        coloured = whole.convert("RGB")
        return coloured.convert("L") if image.mode in ("LA", "La", "L", "1") else _grey_if_equal(coloured)
    if image.mode == "1":
        return image.convert("L")
    if image.mode not in ("L", "RGB"):
        return image.convert("RGB")
    return image


def _unlike(values: NDArray[np.float64], level: int) -> NDArray[np.uint8]:
    """255 where a pixel is opaque, 0 where it has the level that stands for transparent."""
    return np.where(values == level, 0, 255).astype(np.uint8)


def _grey_if_equal(image: Image.Image) -> Image.Image:
    """An RGB picture without colour, as from a grey palette, in mode L; otherwise as it is."""
    red, green, blue = image.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():
        return red
    return image


def _sized(image: Image.Image, form: Form, problem: Problem) -> Image.Image:
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
