"""Plain PNG files give the pixels that Pillow gives; whatever is unusual or damaged is left to Pillow."""

import struct
import zlib

import numpy as np
import pyspng
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from raw_images import chunk, encoded

from troika.datasets.plain_png import decode_plain_png

NOISE = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
SIZE = (7, 9)


def picture(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(NOISE).convert(mode)


def with_data(data: bytes, header: bytes = struct.pack(">IIBBBBB", *SIZE, 8, 2, 0, 0, 0)) -> bytes:
    """A PNG with these bytes where the compressed pixels should be; its checksums are right."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from(["L", "RGB"]), st.integers(0, 9), st.integers(0, 2**32)
)
def test_pixels_are_those_of_pillow(width: int, height: int, mode: str, level: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Smooth, so that all five filters of PNG are used.
    small = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    found = decode_plain_png(encoded(image, compress_level=level), (width, height), 1 if mode == "L" else 3)
    assert found is not None
    assert found.dtype == np.uint8
    assert (found.reshape(np.asarray(image).shape) == np.asarray(image)).all()
    by_its_encoder = pyspng.encode(np.asarray(image), pyspng.ProgressiveMode.NONE)
    again = decode_plain_png(by_its_encoder, (width, height), 1 if mode == "L" else 3)
    assert again is not None
    assert (again == found).all()


def test_what_says_nothing_of_pixels_does_not_matter() -> None:
    colours = Image.new("RGB", (1, 1))
    content = encoded(picture(), dpi=(72, 72))
    assert b"pHYs" in content
    assert decode_plain_png(content, SIZE, 3) is not None
    gamma = encoded(picture())[:33] + chunk(b"gAMA", bytes(4)) + encoded(picture())[33:]
    assert decode_plain_png(gamma, SIZE, 3) is not None
    assert decode_plain_png(encoded(colours), (1, 1), 3) is not None


def text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n8\n4d4d002a00000008\n")
    return info


def referring_back() -> bytes:
    """Nine rows of seven pixels that are said to be copies of what lies before the stream's beginning."""
    bits = "1" + "10"  # the last block, of the fixed Huffman code
    for _ in range(9):
        bits += "00110000"  # the byte 0, which is the filter
        bits += "0010011" + "01"[::-1] + "11101" + "1" * 13  # 20 bytes from 32,768 before, and then one more
        bits += "00110000"
    bits += "0000000"
    bits += "0" * (-len(bits) % 8)
    return b"\x78\x9c" + bytes(int(bits[place : place + 8][::-1], 2) for place in range(0, len(bits), 8))


ROWS = b"".join(b"\0" + row.tobytes() for row in NOISE)
PACKED = zlib.compress(ROWS)
EXIF = Image.Exif()
EXIF[274] = 6
UNUSUAL = {
    "another size": encoded(picture().resize((8, 9))),
    "grey": encoded(picture("L")),
    "palette": encoded(picture("P")),
    "alpha": encoded(picture("RGBA")),
    "one transparent colour": encoded(picture(), transparency=(1, 2, 3)),
    "16 bits": encoded(Image.fromarray(np.zeros((9, 7), np.uint16))),
    "orientation": encoded(picture(), exif=EXIF),
    "text": encoded(picture(), pnginfo=text()),
    "animated": encoded(picture(), save_all=True, append_images=[Image.new("RGB", SIZE)]),
    "interlaced": pyspng.encode(NOISE, pyspng.ProgressiveMode.INTERLACED),
    "JPEG": b"\xff\xd8\xff\xe0" + bytes(100),
    "nothing": b"",
    "cut off": encoded(picture())[:-20],
    "cut off in its header": encoded(picture())[:20],
    "cut off before its end": encoded(picture())[:-12],
    "more after its end": encoded(picture()) + b"x",
    "no pixels": with_data(b""),
    "too few pixels": with_data(zlib.compress(bytes(9 * 20))),
    "no compressed data": with_data(b"not compressed"),
    "an unknown filter": with_data(zlib.compress((b"\x09" + bytes(21)) * 9)),
    "copies of what was never there": with_data(referring_back()),
    "pixels in two places": encoded(picture())[:33]
    + b"".join(chunk(*one) for one in [(b"IDAT", PACKED[:20]), (b"gAMA", bytes(4)), (b"IDAT", PACKED[20:])])
    + chunk(b"IEND", b""),
    "a wrong checksum of the pixels": with_data(PACKED[:-4] + bytes(4)),
    "no checksum of the pixels": with_data(PACKED[:-4]),
    "one row more": with_data(zlib.compress(ROWS + ROWS[:22])),
    "more after the pixels": with_data(PACKED + b"x"),
    "a profile": encoded(picture(), icc_profile=b"profile"),
    "a short gamma": encoded(picture())[:33] + chunk(b"gAMA", b"") + encoded(picture())[33:],
    "a header twice": encoded(picture())[:33] + encoded(picture())[8:],
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_or_damaged_is_left_to_pillow(name: str) -> None:
    assert decode_plain_png(UNUSUAL[name], SIZE, 3) is None
    assert decode_plain_png(encoded(picture()), SIZE, 3) is not None, "the control"


def test_pixels_may_come_in_several_chunks() -> None:
    parts = b"".join(chunk(b"IDAT", PACKED[place : place + 20]) for place in range(0, len(PACKED), 20))
    found = decode_plain_png(encoded(picture())[:33] + parts + chunk(b"IEND", b""), SIZE, 3)
    assert found is not None
    assert (found == NOISE).all()


def test_no_flipped_byte_goes_unnoticed() -> None:
    content = encoded(picture())
    for place in range(len(content)):
        spoiled = bytearray(content)
        spoiled[place] ^= 1
        assert decode_plain_png(bytes(spoiled), SIZE, 3) is None, place
