"""BMP, by Pillow: it holds nothing but pixels, of up to 8 bits a channel."""

import io

from PIL import Image, UnidentifiedImageError

from troika.datasets.formats.opened import DamagedError, OpenedFile


def open_bmp(content: bytes) -> OpenedFile:
    """Read the header of a BMP.

    Raises:
        DamagedError: Pillow does not read this kind.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=("BMP",))
    except UnidentifiedImageError:
        raise DamagedError("the header of the BMP is damaged", "unreadable") from None
    except (OSError, ValueError) as error:
        text = str(error) or "not a BMP that is read"
        raise DamagedError(text, "truncated" if "truncated" in text.lower() else "unreadable") from None

    def decode() -> Image.Image:
        try:
            with image:
                image.load()
        except ValueError as error:
            if str(error) != "not enough image data":
                raise
            raise DamagedError("pixels of the BMP are missing") from None
        return image

    return OpenedFile(image.size, decode)
