"""Plain WebP files give the pixels that Pillow gives; whatever is unusual or damaged is left to Pillow."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from raw_images import encoded, smooth_picture

from troika.datasets.plain_webp import decode_plain_webp

SIZE = (21, 19)
NOISE = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 4), dtype=np.uint8)


def webp(image: Image.Image, **options: Any) -> bytes:
    return encoded(image, "WEBP", **options)


def picture(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(NOISE).convert(mode)


LOSSY, LOSSLESS = webp(picture()), webp(picture(), lossless=True)
PLAIN = {"lossy": LOSSY, "lossless": LOSSLESS}


@given(
    st.integers(1, 70), st.integers(1, 70), st.booleans(), st.integers(1, 100), st.integers(0, 6),
    st.integers(0, 2**32),
)  # fmt: skip
def test_pixels_are_those_of_pillow(
    width: int, height: int, lossless: bool, quality: int, method: int, seed: int
) -> None:
    content = webp(smooth_picture(width, height, seed), lossless=lossless, quality=quality, method=method)
    found = decode_plain_webp(content, (width, height), 3)
    assert found is not None
    assert found.dtype == np.uint8
    assert (found == np.asarray(Image.open(io.BytesIO(content)))).all()


def ending_with(content: bytes, inside: bytes) -> bytes:
    """The picture's chunk with this in it, all lengths as they should be."""
    padded = inside + bytes(len(inside) % 2)
    chunk = content[12:16] + struct.pack("<I", len(inside)) + padded
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def inside(content: bytes) -> bytes:
    return content[20 : 20 + struct.unpack_from("<I", content, 16)[0]]


def changed(content: bytes, place: int, bits: int) -> bytes:
    return content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :]


def animated() -> bytes:
    return webp(picture(), save_all=True, append_images=[picture().transpose(Image.Transpose.ROTATE_180)])


EXIF = Image.Exif()
EXIF[274] = 6
UNUSUAL = {
    "another size": webp(picture().resize((8, 9))),
    "turned": webp(picture().resize(SIZE[::-1])),
    "turned, lossless": webp(picture().resize(SIZE[::-1]), lossless=True),
    "transparent": webp(picture("RGBA")),
    "transparent, lossless": webp(picture("RGBA"), lossless=True),
    "orientation": webp(picture(), exif=EXIF),
    "a profile": webp(picture(), icc_profile=b"profile"),
    "two pictures": animated(),
    "a WAV": b"RIFF\x24\0\0\0WAVEfmt " + bytes(28),
    "nothing": b"",
    "only the beginning": LOSSY[:29],
    "cut off": LOSSY[:-20],
    "cut off, with the right lengths": ending_with(LOSSY, inside(LOSSY)[:-20]),
    "lossless, cut off, with the right lengths": ending_with(LOSSLESS, inside(LOSSLESS)[:-20]),
    "a length that is too great": changed(LOSSY, 5, 0x40),
    "a length that is too small": LOSSY[:4] + struct.pack("<I", len(LOSSY) - 10) + LOSSY[8:],
    "more after its end": LOSSY + b"xx",
    "a second chunk": b"RIFF" + struct.pack("<I", len(LOSSY) + 2) + LOSSY[8:] + b"EXIF\x02\0\0\0xx",
    "no key frame": changed(LOSSY, 20, 1),
    "a frame that is not shown": changed(LOSSY, 20, 0x10),
    "another start": changed(LOSSY, 23, 1),
    "to be scaled": changed(LOSSY, 27, 0x40),
    "lossless, another start": changed(LOSSLESS, 20, 1),
    "lossless, another version": changed(LOSSLESS, 24, 0x20),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_or_damaged_is_left_to_pillow(name: str) -> None:
    assert decode_plain_webp(UNUSUAL[name], SIZE, 3) is None


@pytest.mark.parametrize("content", PLAIN.values(), ids=PLAIN)
def test_the_same_undamaged_and_put_together_anew_is_plain(content: bytes) -> None:
    assert decode_plain_webp(ending_with(content, inside(content)), SIZE, 3) is not None


def test_no_file_is_grey() -> None:
    assert decode_plain_webp(webp(picture("L")), SIZE, 1) is None


@pytest.mark.parametrize("content", PLAIN.values(), ids=PLAIN)
def test_a_spoiled_byte_never_gives_other_pixels_than_pillow_gives(content: bytes) -> None:
    random = np.random.default_rng(0)
    taken = 0
    for place in range(len(content)):
        spoiled = changed(content, place, 1 << int(random.integers(8)))
        found = decode_plain_webp(spoiled, SIZE, 3)
        if found is None:
            continue
        taken += 1
        with Image.open(io.BytesIO(spoiled)) as image:
            assert (image.size, image.mode) == (SIZE, "RGB"), place
            assert (np.asarray(image) == found).all(), place
    assert 0 < taken < len(content)
