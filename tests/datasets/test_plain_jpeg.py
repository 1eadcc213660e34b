"""Plain JPEG files give the pixels that Pillow gives; whatever is unusual or damaged is left to Pillow."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from raw_images import encoded, smooth_picture

from troika.datasets.plain_jpeg import decode_plain_jpeg

SIZE = (21, 19)
NOISE = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    return encoded(image, "JPEG", **options)


def picture(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(NOISE).convert(mode)


PLAIN = jpeg(picture())
FRAME = PLAIN.index(b"\xff\xc0")


@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from(["L", "RGB"]), st.integers(1, 100), st.integers(0, 2),
    st.booleans(), st.integers(0, 40), st.integers(0, 2**32),
)  # fmt: skip
def test_pixels_are_those_of_pillow(
    width: int, height: int, mode: str, quality: int, sampling: int, progressive: bool, restart: int, seed: int
) -> None:
    content = jpeg(
        smooth_picture(width, height, seed).convert(mode),
        quality=quality,
        subsampling=sampling,
        progressive=progressive,
        restart_marker_blocks=restart,
    )
    found = decode_plain_jpeg(content, (width, height), 1 if mode == "L" else 3)
    expected = np.asarray(Image.open(io.BytesIO(content)))
    assert found is not None
    assert found.dtype == np.uint8
    assert (found.reshape(expected.shape) == expected).all()


def test_a_comment_does_not_matter() -> None:
    content = jpeg(picture(), comment=b"a picture", dpi=(72, 72))
    assert b"a picture" in content
    assert decode_plain_jpeg(content, SIZE, 3) is not None


def named(letters: bytes) -> bytes:
    """The components' numbers changed, where frame and scan name them."""
    content = bytearray(PLAIN)
    scan = content.index(b"\xff\xda")
    for number, letter in enumerate(letters):
        content[FRAME + 10 + 3 * number] = content[scan + 5 + 2 * number] = letter
    return bytes(content)


def two_pictures() -> bytes:
    other = picture().transpose(Image.Transpose.ROTATE_180)
    return encoded(picture(), "MPO", save_all=True, append_images=[other])


EXIF = Image.Exif()
EXIF[274] = 6
UNUSUAL = {
    "another size": jpeg(picture().resize((8, 9))),
    "turned": jpeg(picture().resize(SIZE[::-1])),
    "grey": jpeg(picture("L")),
    "cmyk": jpeg(picture("CMYK")),
    "without the colours' transform": jpeg(picture(), keep_rgb=True),
    "components named R, G, B": named(b"RGB"),
    "orientation": jpeg(picture(), exif=EXIF),
    "a profile": jpeg(picture(), icc_profile=b"profile"),
    "two pictures": two_pictures(),
    "a PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "nothing": b"",
    "cut off": PLAIN[:-20],
    "cut off, with an end": PLAIN[: len(PLAIN) // 2] + b"\xff\xd9",
    "cut off in its header": PLAIN[: FRAME + 6],
    "only the beginning and the end": b"\xff\xd8\xff\xd9",
    "more after its end": PLAIN + b"x",
    "12 bits": PLAIN[: FRAME + 4] + b"\x0c" + PLAIN[FRAME + 5 :],
    "arithmetic coding": PLAIN.replace(b"\xff\xc0", b"\xff\xc9", 1),
    "a frame twice": PLAIN[:FRAME] + PLAIN[FRAME : FRAME + 19] + PLAIN[FRAME:],
    "no frame": PLAIN[:FRAME] + PLAIN[FRAME + 19 :],
    "bytes between segments": PLAIN[:FRAME] + b"xx" + PLAIN[FRAME:],
    "bytes between the pixels": PLAIN[:-40] + b"\xff\xd0" + PLAIN[-40:],
    "a segment of no length": PLAIN[:FRAME] + b"\xff\xfe\0\0" + PLAIN[FRAME:],
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_or_damaged_is_left_to_pillow(name: str) -> None:
    assert decode_plain_jpeg(UNUSUAL[name], SIZE, 3) is None
    assert decode_plain_jpeg(PLAIN, SIZE, 3) is not None, "the control"


def test_a_spoiled_byte_never_gives_other_pixels_than_pillow_gives() -> None:
    random = np.random.default_rng(0)
    taken = 0
    for place in range(len(PLAIN)):
        spoiled = bytearray(PLAIN)
        spoiled[place] ^= 1 << random.integers(8)
        found = decode_plain_jpeg(bytes(spoiled), SIZE, 3)
        if found is None:
            continue
        taken += 1
        with Image.open(io.BytesIO(bytes(spoiled))) as image:
            assert image.size == SIZE, place
            assert (np.asarray(image.convert("RGB")) == found).all(), place
    assert 0 < taken < len(PLAIN)
