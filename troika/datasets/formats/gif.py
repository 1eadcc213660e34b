"""GIF, by Pillow, which tells missing pixels by itself."""

import io

from PIL import Image

from troika.datasets.formats.opened import DamagedError, OpenedFile


def open_gif(content: bytes) -> OpenedFile:
    """Read the header of a GIF.

    Raises:
        DamagedError: it holds no picture.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=("GIF",))
    except (OSError, ValueError, EOFError):
        if content.endswith(b";"):
            raise DamagedError("the GIF holds no picture that can be read", "unreadable") from None
        raise DamagedError("the file ends before the first picture of the GIF") from None
    try:
        several = bool(getattr(image, "is_animated", False))
    except (OSError, ValueError, IndexError):
        several = False  # what follows the first picture is no picture

    def decode() -> Image.Image:
        with image:
            image.load()
        return image

    return OpenedFile(image.size, decode, frames=2 if several else 1)
