"""Whole files give the pixels that Pillow gives; what is missing or damaged is told, whoever decodes the rest."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoded import WARN, decoded
from hypothesis import given
from hypothesis import strategies as st
from image_bytes import PNG, bmp, gif, png, png_rows
from PIL import Image
from raw_images import chunk, encoded, random_images, smooth_picture

from troika.datasets.formats import find_format
from troika.datasets.formats import png as png_format

SIZE = (21, 19)
NOISE = random_images(1, channels=3, size=SIZE[::-1])[0]
PICTURE = Image.fromarray(NOISE)
ROWS = png_rows(NOISE)
HEADER = PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", *SIZE, 8, 2, 0, 0, 0))
END = chunk(b"IEND", b"")
FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 90},
    "WEBP": {"quality": 90},
    "GIF": {},
    "BMP": {},
}


def whole(content: bytes) -> np.ndarray:
    """The pixels of a file without a word about them, as our side gives them."""
    opener = find_format(content[:12])
    assert opener is not None
    pixels = opener(content).decode()
    return pixels if isinstance(pixels, np.ndarray) else np.asarray(pixels)


def by_pillow(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from(["L", "RGB", "CMYK"]), st.integers(1, 100),
    st.integers(0, 2), st.booleans(), st.integers(0, 40), st.integers(0, 2**32),
)  # fmt: skip
def test_pixels_of_jpeg_are_those_of_pillow(
    width: int, height: int, mode: str, quality: int, sampling: int, progressive: bool, restart: int, seed: int
) -> None:
    content = encoded(
        smooth_picture(width, height, seed).convert(mode),
        "JPEG",
        quality=quality,
        subsampling=sampling,
        progressive=progressive,
        restart_marker_blocks=restart,
    )
    assert (whole(content) == by_pillow(content)).all()


@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]),
    st.sampled_from(["PNG", "WEBP", "GIF", "BMP"]), st.integers(0, 2**32),
)  # fmt: skip
def test_pixels_of_other_formats_are_those_of_pillow(
    width: int, height: int, mode: str, form: str, seed: int
) -> None:
    image = smooth_picture(width, height, seed)
    image = image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode)
    if form != "PNG":
        image = image.convert("RGB" if mode == "I;16" else mode)
    if form == "BMP" and mode == "LA":
        image = image.convert("L")
    content = encoded(image, form, lossless=True) if form == "WEBP" else encoded(image, form)
    assert (whole(content) == by_pillow(content)).all()


def interlaced(pixels: np.ndarray) -> bytes:
    """The rows of the seven passes."""
    return b"".join(png_rows(some) for x, y, dx, dy in png_format._ADAM7 if (some := pixels[y::dy, x::dx]).size)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 1), (3, 4), (8, 8), (21, 19)])
def test_interlaced_png_is_used_and_its_rows_are_counted(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = random_images(1, channels=3, seed=3, size=size[::-1])[0]
    rows = interlaced(pixels)
    problems, found = decoded(tmp_path, png(*size, rows, interlace=1), size)
    assert problems == []
    assert found is not None
    assert (found == pixels).all()
    assert decoded(tmp_path, png(*size, rows[:-1], interlace=1), size) == (["truncated"], None)


def jpeg(**options: Any) -> bytes:
    return encoded(PICTURE, "JPEG", subsampling=0, **options)


def closed(content: bytes, share: float) -> bytes:
    """Part of a JPEG's pixels, and an end."""
    start = content.index(b"\xff\xda")
    return content[: start + int((len(content) - start) * share)].rstrip(b"\xff") + b"\xff\xd9"


def without_last_scans(content: bytes, count: int) -> bytes:
    starts = [place for place in range(len(content)) if content[place : place + 2] == b"\xff\xda"]
    return content[: starts[-count]] + b"\xff\xd9"


def without(content: bytes, part: bytes) -> bytes:
    assert part in content
    return content.replace(part, b"", 1)


def spoiled(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def shortened(content: bytes, count: int) -> bytes:
    """A WebP of one chunk without its last bytes; its lengths say the same."""
    data = content[20 : len(content) - count]
    data = data[: len(data) // 2 * 2]
    sizes = struct.pack("<I", 12 + len(data)), struct.pack("<I", len(data))
    return b"RIFF" + sizes[0] + content[8:16] + sizes[1] + data


RESTARTS = jpeg(restart_marker_blocks=1)
PROGRESSIVE = jpeg(progressive=True)
WEBP, LOSSLESS = encoded(PICTURE, "WEBP"), encoded(PICTURE, "WEBP", lossless=True)
PALETTE = bytes(value for level in range(256) for value in (level, level, level, 0))
TRUNCATED: dict[str, bytes] = {
    **{f"{form}, {share} %": (data := encoded(PICTURE, form, **FORMATS[form]))[: len(data) * share // 100]
       for form in FORMATS for share in (60, 99)},
    "JPEG without its end": jpeg()[:-2],
    **{f"JPEG closed after {share} %": closed(jpeg(), share / 100) for share in (1, 30, 50, 90)},
    "grey JPEG, half closed": closed(encoded(PICTURE.convert("L"), "JPEG"), 0.5),
    "CMYK JPEG, half closed": closed(encoded(PICTURE.convert("CMYK"), "JPEG"), 0.5),
    "JPEG with bytes behind a half": closed(jpeg(), 0.5) + jpeg(),
    "JPEG that begins anew": jpeg()[: len(jpeg()) // 2] + jpeg(),
    "JPEG without a part between restarts":
        RESTARTS[: RESTARTS.index(b"\xff\xd2")] + RESTARTS[RESTARTS.index(b"\xff\xd3") :],
    "JPEG without a restart marker": without(RESTARTS, b"\xff\xd3"),
    "progressive JPEG without its last scan": without_last_scans(PROGRESSIVE, 1),
    "progressive JPEG without most scans": without_last_scans(PROGRESSIVE, 9),
    "progressive JPEG, half closed": closed(PROGRESSIVE, 0.5),
    "PNG without its last row": png(*SIZE, ROWS[: -1 - 3 * SIZE[0]]),
    "PNG without its last byte": png(*SIZE, ROWS[:-1]),
    "PNG of no rows": png(*SIZE, b""),
    "PNG without pixels": HEADER + END,
    "PNG without its stream's checksum": HEADER + chunk(b"IDAT", zlib.compress(ROWS)[:-4]) + END,
    "PNG with a wrong checksum of pixels": spoiled(png(*SIZE, ROWS), -len(END) - 1),
    "PNG without its end": png(*SIZE, ROWS)[: -len(END)],
    "PNG that ends in a text": png(*SIZE, ROWS, after=chunk(b"tEXt", bytes(99)))[:-50],
    "grey PNG without its last row": png(*SIZE, png_rows(NOISE[:-1, :, :1]), colour=0),
    "PNG of 16 bits without its last row": png(*SIZE, bytes((1 + 6 * SIZE[0]) * (SIZE[1] - 1)), depth=16),
    **{f"WebP without {count} bytes": shortened(WEBP, count) for count in (8, 20, 200)},
    **{f"lossless WebP without {count} bytes": shortened(LOSSLESS, count) for count in (4, 20, 200)},
    "GIF of half the pixels": gif(*SIZE, NOISE[:9, :, 0].tobytes()),
    "BMP without its last line": encoded(PICTURE, "BMP")[: -3 * SIZE[0]],
    "BMP of run lengths without its last line":
        bmp(8, 4, 8, b"\x08\x01\0\0\x08\x02\0\0\0\1", palette=PALETTE, compression=1),
}  # fmt: skip
UNREADABLE: dict[str, bytes] = {
    "PNG with a damaged stream": HEADER + chunk(b"IDAT", zlib.compress(ROWS)[:2] + b"\xff" * 40) + END,
    "PNG with a wrong checksum of its stream": HEADER + chunk(b"IDAT", zlib.compress(ROWS)[:-1] + b"\0") + END,
    "PNG with a wrong checksum of its header": spoiled(png(*SIZE, ROWS), 30),
    "PNG of an unknown filter": png(*SIZE, b"\x09" + ROWS[1:]),
    "PNG of three bits": png(*SIZE, ROWS, depth=3),
    "PNG of no width": png(0, 9, ROWS),
    "PNG of a colour that there is not": png(*SIZE, ROWS, colour=5),
    "PNG without a header": PNG + chunk(b"IDAT", zlib.compress(ROWS)) + END,
    "PNG with bytes between its chunks": HEADER + b"\0" * 12 + chunk(b"IDAT", zlib.compress(ROWS)) + END,
    "JPEG of 12 bits": jpeg().replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
    "JPEG of no height": jpeg().replace(struct.pack(">BHH", 8, *SIZE[::-1]), struct.pack(">BHH", 8, 0, SIZE[0])),
    "JPEG without a frame": jpeg().replace(b"\xff\xc0", b"\xff\xfe"),
    "JPEG with bytes between its segments": jpeg()[:2] + b"xx" + jpeg()[2:],
    "JPEG of nothing": b"\xff\xd8\xff\xd9",
    "WebP of nothing": b"RIFF\4\0\0\0WEBP",
    "BMP of an unknown kind": bmp(8, 4, 24, bytes(96), compression=9),
    "BMP of ten bits a channel":
        bmp(8, 4, 32, bytes(128), masks=struct.pack("<III", 0x3FF, 0xFFC00, 0x3FF00000)),
    "GIF of nothing": b"GIF89a" + bytes(7) + b";",
    "a film": b"RIFF\xff\0\0\0AVI LIST",
    "a TIFF": encoded(PICTURE, "TIFF"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TRUNCATED)
def test_what_is_missing_is_told(tmp_path: Path, kind: str) -> None:
    assert decoded(tmp_path, TRUNCATED[kind], SIZE, scale=True, **WARN) == (["truncated"], None)


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_is_no_picture_is_told(tmp_path: Path, kind: str) -> None:
    assert decoded(tmp_path, UNREADABLE[kind], SIZE, scale=True, **WARN) == (["unreadable"], None)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_the_control_is_used(tmp_path: Path, kind: str) -> None:
    assert decoded(tmp_path, encoded(PICTURE, kind, **FORMATS[kind]), SIZE)[1] is not None
    assert decoded(tmp_path, RESTARTS, SIZE)[0] == decoded(tmp_path, PROGRESSIVE, SIZE)[0] == []


def test_rows_beyond_the_last_do_not_matter(tmp_path: Path) -> None:
    problems, pixels = decoded(tmp_path, png(*SIZE, ROWS + ROWS), SIZE)
    assert problems == []
    assert (pixels == NOISE).all()


@pytest.mark.parametrize("name", [name for name in {**TRUNCATED, **UNREADABLE} if "PNG" in name])
def test_large_png_files_are_checked_without_being_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(png_format, "_REPACKED", 0)
    monkeypatch.setattr(png_format, "_STEP", 100)
    problems, pixels = decoded(tmp_path, png(*SIZE, ROWS), SIZE)
    assert problems == []
    assert (pixels == NOISE).all()
    problem = "truncated" if name in TRUNCATED else "unreadable"
    assert decoded(tmp_path, {**TRUNCATED, **UNREADABLE}[name], SIZE, scale=True, **WARN) == ([problem], None)


def test_a_jpeg_of_unusual_sampling_is_used(tmp_path: Path) -> None:
    """Three blocks of brightness to one of each colour, all grey: simplejpeg has no name for that."""
    content = bytearray(encoded(Image.new("RGB", (24, 8), (128, 128, 128)), "JPEG", subsampling=0))
    content[content.index(b"\xff\xc0") + 11] = 0x31
    bits = 3 * "001010" + 2 * "0000"
    pixels = int(bits.ljust(32, "1"), 2).to_bytes(4)
    scan = content.index(b"\xff\xda")
    problems, found = decoded(tmp_path, bytes(content[: scan + 14]) + pixels + b"\xff\xd9", (24, 8))
    assert problems == []
    assert found is not None
    assert (found == 128).all()
