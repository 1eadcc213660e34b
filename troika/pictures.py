"""Images of a model on one sheet, and PNG files of it."""

import base64
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from troika.errors import RequestError
from troika.folders import write_atomic

_GROUND = 96


def grid(images: NDArray[np.uint8], columns: int | None = None, scale: int = 1) -> Image.Image:
    """All images on one sheet, row by row, on a grey ground.

    Args:
        images: uint8 (N, H, W, C), N at least 1, C 1 or 3.
        columns: images in a row; None makes the sheet about square.
        scale: how many times each image is enlarged, without smoothing.

    Raises:
        RequestError: an argument is not usable (named).
    """
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] not in {1, 3} or not images.size:
        raise RequestError(f"images must be uint8 (N, H, W, 1 or 3), got {images.dtype} {images.shape}")
    count, height, width, channels = images.shape
    if columns is None:
        columns = int(np.ceil(np.sqrt(count)))
    if columns < 1 or scale < 1:
        raise RequestError(f"columns and scale must be at least 1, got {columns} and {scale}")
    columns = min(columns, count)
    rows = -(-count // columns)
    # A gap as wide as one pixel of the images, all around.
    sheet = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), _GROUND, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = 1 + index // columns * (height + 1), 1 + index % columns * (width + 1)
        sheet[top : top + height, left : left + width] = image
    sheet = sheet.repeat(scale, axis=0).repeat(scale, axis=1)
    return Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)


def data_uri(picture: Image.Image) -> str:
    """A picture as a `data:` URI for an `<img>`: a page that holds it needs no other file."""
    return "data:image/png;base64," + base64.b64encode(_png(picture)).decode("ascii")


def tile_uri(image: NDArray[np.uint8], *, lossless: bool = True, largest: int = 96) -> str:
    """One image (H, W, 1 or 3) as a `data:` URI.

    Args:
        image: it.
        lossless: PNG; else WebP, which is several times smaller for photographs.
        largest: pixels; what is wider or higher is shrunk to it.
    """
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    picture.thumbnail((largest, largest), Image.Resampling.BOX)
    if lossless:
        return data_uri(picture)
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a PNG file, whole or not at all; missing folders are made.

    Raises:
        TroikaError: the path cannot be written.
    """
    write_atomic(path, _png(picture))


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
