"""One-page HTML reports: self-contained, so that Kubeflow can show them in a sandboxed frame."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from troika.folders import write_atomic


def image_grid(images: NDArray[np.uint8], columns: int, scale: int, gap: int = 1) -> NDArray[np.uint8]:
    """Images (N, H, W, C) as one picture (rows, columns), each enlarged `scale` times, on a grey ground."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    grid = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 96, np.uint8)
    for index, image in enumerate(images):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid.repeat(scale, axis=0).repeat(scale, axis=1)


def png_bytes(picture: NDArray[np.uint8]) -> bytes:
    """A picture (H, W, 1 or 3) as PNG."""
    from PIL import Image  # noqa: PLC0415 - optional dependency

    buffer = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(buffer, format="PNG")
    return buffer.getvalue()


def data_uri(picture: NDArray[np.uint8]) -> str:
    """A picture (H, W, 1 or 3) as a `data:` URI for an `<img>`."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(picture)).decode("ascii")


def write_page(path: Path, template: str, **values: Any) -> None:
    """Render `templates/<template>` to `path`; names that the template uses and `values` lacks are errors."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - optional dependency

    environment = Environment(
        loader=PackageLoader("troika"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_atomic(path, environment.get_template(template).render(**values))
