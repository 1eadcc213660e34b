"""Files as cameras, phones and old programs write them: used, or refused for what is wrong with their pixels."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoded import WARN, decoded
from image_bytes import bmp, exif, gif, jpeg_segment, packed_rows, png, png_rows
from PIL import Image
from raw_images import chunk, encoded, prepare, random_images, write_folder

SIDE = 16
PIXELS = random_images(1, channels=3, seed=99, size=(SIDE, SIDE))[0]
GREY = PIXELS[..., 0]
PICTURE = Image.fromarray(PIXELS)
ROWS = png_rows(PIXELS)
JPEG = encoded(PICTURE, "JPEG", quality=95, subsampling=0)
FROM_JPEG = np.asarray(Image.open(io.BytesIO(JPEG)))
FILES = Path(__file__).parent / "photographs"


def by_pillow(name: str) -> np.ndarray:
    """The first picture's pixels, not turned."""
    with Image.open(FILES / name) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("name", "problem", "quarter_turns"),
    [
        ("bmp16g.bmp", None, 0),
        ("bmp56.bmp", None, 0),
        ("565.bmp", None, 0),
        ("exif_rational_text.jpg", "exif_rotated", -1),
        ("exif_xres_signed.jpg", "exif_rotated", -1),
        ("mpo.jpg", None, 0),
        ("ztxt.png", None, 0),
        ("half_closed.jpg", "truncated", None),
    ],
)
def test_a_file_that_a_person_really_has(
    tmp_path: Path, name: str, problem: str | None, quarter_turns: int
) -> None:
    good = write_folder(tmp_path / "good", random_images(60, channels=3, size=(SIDE, SIDE)), np.arange(60) % 2)
    (good / "a" / name).write_bytes((FILES / name).read_bytes())
    made = prepare(tmp_path / "out", good, image_size=SIDE)
    if quarter_turns is None:
        assert made.quarantined() == {f"a/{name}": problem}
        return
    assert made.quarantined() == {}
    assert made.refused["warning_counts"] == ({problem: 1} if problem else {})
    whole = np.ascontiguousarray(np.rot90(_without_text(name), quarter_turns))
    problems, pixels = decoded(tmp_path, (FILES / name).read_bytes(), (whole.shape[1], whole.shape[0]))
    assert pixels is not None
    assert problems == ([problem] if problem else [])
    assert (pixels == whole).all()


def _without_text(name: str) -> np.ndarray:
    if name != "ztxt.png":
        return by_pillow(name)
    content = (FILES / name).read_bytes()
    start = content.index(b"zTXt") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4])
    return np.asarray(Image.open(io.BytesIO(content[:start] + content[end:])).convert("RGB"))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_bmp_files_of_every_width_are_used(tmp_path: Path, mode: str) -> None:
    for width in range(1, 66):
        image = Image.fromarray(random_images(1, channels=3, seed=width, size=(7, width))[0]).convert(mode)
        problems, pixels = decoded(tmp_path, encoded(image, "BMP"), (width, 7))
        assert pixels is not None, (width, problems)
        assert "sixteen_bit" not in problems
        if mode != "P":
            assert (pixels == np.asarray(image.convert("RGB"))).all(), width


UPSIDE_DOWN = PIXELS[::-1]
FIVE_BITS = UPSIDE_DOWN.astype(np.uint16) >> 3
PALETTE = bytes(value for level in range(256) for value in (level, level, level, 0))
RLE_LINES = [b"".join(bytes([1, level]) for level in row) + b"\0\0" for row in GREY[::-1].tolist()]
BMP_KINDS: dict[str, tuple[bytes, np.ndarray]] = {
    "16 bits, 5/5/5": (
        bmp(SIDE, SIDE, 16, (FIVE_BITS @ np.array([1 << 10, 1 << 5, 1])).astype("<u2").tobytes()),
        np.rint((PIXELS >> 3) * (255 / 31)),
    ),
    "16 bits, 5/6/5": (
        bmp(
            SIDE, SIDE, 16, (FIVE_BITS @ np.array([1 << 11, 1 << 6, 1])).astype("<u2").tobytes(),
            masks=struct.pack("<III", 0xF800, 0x7E0, 0x1F),
        ),
        np.rint(np.stack([PIXELS[..., 0] >> 3, (PIXELS[..., 1] >> 3) * 2, PIXELS[..., 2] >> 3], -1)
                * (255 / np.array([31, 63, 31]))),
    ),
    "32 bits": (
        bmp(SIDE, SIDE, 32, np.concatenate([UPSIDE_DOWN[..., ::-1], UPSIDE_DOWN[..., :1]], axis=2).tobytes()),
        PIXELS,
    ),
    "run lengths": (
        bmp(SIDE, SIDE, 8, b"".join(RLE_LINES) + b"\0\1", palette=PALETTE, compression=1),
        np.stack([GREY] * 3, axis=2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BMP_KINDS)
def test_bmp_files_of_every_depth_are_used(tmp_path: Path, kind: str) -> None:
    content, expected = BMP_KINDS[kind]
    problems, pixels = decoded(tmp_path, content, (SIDE, SIDE))
    assert problems == []
    assert pixels is not None
    assert np.abs(pixels - expected).max() <= 1


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_of_sixteen_bits_is_told_and_scaled(tmp_path: Path, colour: int, channels: int) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (SIDE, SIDE, channels)).astype(">u2")
    deep[..., channels - 1 if channels in (2, 4) else channels :] = 65535
    content = png(SIDE, SIDE, png_rows(deep), depth=16, colour=colour)
    assert decoded(tmp_path, content, (SIDE, SIDE)) == (["sixteen_bit"], None)
    problems, pixels = decoded(tmp_path, content, (SIDE, SIDE), sixteen_bit="warn")
    assert problems == ["sixteen_bit"]
    assert pixels is not None
    levels = deep[..., :3] if channels > 2 else deep[..., :1]
    assert np.abs(pixels - levels / 257).max() <= 1


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_level_of_grey_is_seen_whatever_its_depth(tmp_path: Path, depth: int) -> None:
    levels = np.random.default_rng(0).integers(0, 2**depth, (SIDE, SIDE))
    levels[0] = 1
    rows = png_rows(levels.astype(">u2" if depth == 16 else np.uint8)[..., np.newaxis])
    rows = packed_rows(levels.astype(np.uint8), depth) if depth < 8 else rows
    content = png(SIDE, SIDE, rows, depth=depth, colour=0, before=chunk(b"tRNS", b"\0\1"))
    assert decoded(tmp_path, content, (SIDE, SIDE), sixteen_bit="warn")[0][-1:] == ["transparent"]
    problems, pixels = decoded(tmp_path, content, (SIDE, SIDE), 1, **WARN)
    assert problems[-1] == "transparent"
    assert pixels is not None
    expected = np.where(levels == 1, 255, np.rint(levels * (255 / (2**depth - 1))))
    assert (pixels[..., 0] == expected).all()


def with_exif(form: str, block: bytes) -> bytes:
    """PIXELS without loss, but for JPEG, with an EXIF block as a camera writes it."""
    if form == "jpeg":
        return JPEG[:2] + jpeg_segment(0xE1, block) + JPEG[2:]
    if form == "webp":
        return encoded(PICTURE, "WEBP", lossless=True, exif=block)
    if form == "png text":
        hexadecimal = f"\nexif\n{len(block):8}\n{block.hex()}\n".encode()
        return png(SIDE, SIDE, ROWS, before=chunk(b"tEXt", b"Raw profile type exif\0" + hexadecimal))
    place = {"png": "before", "png behind its pixels": "after"}[form]
    return png(SIDE, SIDE, ROWS, **{place: chunk(b"eXIf", block.removeprefix(b"Exif\0\0"))})  # type: ignore[arg-type]


FORMS = ["jpeg", "webp", "png", "png behind its pixels", "png text"]
BROKEN: dict[str, tuple[int, int, int, int] | None] = {
    "nothing else": None,
    "a text stored as a rational": (0x010E, 5, 1, 26),
    "a signed resolution": (0x011A, 10, 1, 26),
    "a value behind the end": (0x010F, 2, 1000, 2**31),
    "a type that there is not": (0x0110, 77, 9, 1),
    "more values than there are bytes": (0x9286, 7, 2**32 - 1, 8),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("broken", BROKEN)
def test_pixels_are_turned_by_the_orientation_whatever_else_is_in_exif(
    tmp_path: Path, form: str, broken: str
) -> None:
    content = with_exif(form, exif(6, broken=BROKEN[broken]))
    problems, pixels = decoded(tmp_path, content, (SIDE, SIDE))
    assert problems == ["exif_rotated"]
    assert pixels is not None
    assert (pixels == np.rot90(FROM_JPEG if form == "jpeg" else PIXELS, -1)).all()


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_turns_as_pillow_turns_it(tmp_path: Path, orientation: int) -> None:
    expected = Image.fromarray(PIXELS)
    turns = [None, None, 0, 3, 1, 5, 4, 6, 2, None]  # Pillow's numbers of its turns
    if turns[orientation] is not None:
        expected = expected.transpose(Image.Transpose(turns[orientation]))
    for kind in (1, 3, 4, 6, 8, 9):
        for order in "<>":
            content = with_exif("png", exif(orientation, kind=kind, order=order))
            problems, pixels = decoded(tmp_path, content, (SIDE, SIDE))
            assert pixels is not None
            assert (pixels == np.asarray(expected)).all()
            assert problems == (["exif_rotated"] if 2 <= orientation <= 8 else [])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "block", [b"", b"Exif\0\0", b"rubbish", exif(6)[:-8], exif(6)[:14], exif(6, kind=5), b"\0" * 60000]
)
def test_exif_without_a_readable_orientation_does_not_matter(tmp_path: Path, form: str, block: bytes) -> None:
    problems, pixels = decoded(tmp_path, with_exif(form, block), (SIDE, SIDE))
    assert problems == []
    assert pixels is not None


BOMB = zlib.compress(bytes(2**21))
"""Twice what Pillow unpacks."""
METADATA: dict[str, bytes] = {
    "compressed text": png(SIDE, SIDE, ROWS, before=chunk(b"zTXt", b"Comment\0\0" + BOMB)),
    "compressed text behind the pixels": png(SIDE, SIDE, ROWS, after=chunk(b"zTXt", b"Comment\0\0" + BOMB)),
    "compressed international text": png(SIDE, SIDE, ROWS, before=chunk(b"iTXt", b"Comment\0\1\0\0\0" + BOMB)),
    "compressed EXIF": png(SIDE, SIDE, ROWS, before=chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB)),
    "compressed colour profile": png(SIDE, SIDE, ROWS, before=chunk(b"iCCP", b"name\0\0" + BOMB)),
    "colour profile of an unknown compression": png(SIDE, SIDE, ROWS, before=chunk(b"iCCP", b"name\0\7x")),
    "empty colour profile": png(SIDE, SIDE, ROWS, before=chunk(b"iCCP", b"")),
    "text of an unknown compression": png(SIDE, SIDE, ROWS, before=chunk(b"zTXt", b"key\0\7x")),
    "text with a wrong checksum": png(SIDE, SIDE, ROWS, before=chunk(b"tEXt", b"key\0text")[:-4] + b"\0\0\0\0"),
    "many long texts": png(SIDE, SIDE, ROWS, before=70 * chunk(b"tEXt", b"key\0" + bytes(2**20))),
    "short gamma": png(SIDE, SIDE, ROWS, before=chunk(b"gAMA", b"\0")),
    "short resolution": png(SIDE, SIDE, ROWS, before=chunk(b"pHYs", b"\0")),
    "short animation control": png(SIDE, SIDE, ROWS, before=chunk(b"acTL", b"\0")),
    "short frame control": png(SIDE, SIDE, ROWS, before=chunk(b"fcTL", b"\0")),
    "bytes behind the end of a PNG": png(SIDE, SIDE, ROWS) + b"PK\3\4 an archive",
    "xmp": png(SIDE, SIDE, ROWS, before=chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta <<<\xff")),
    "webp": encoded(PICTURE, "WEBP", lossless=True, exif=b"rubbish", xmp=b"<<<\xff", icc_profile=b"none"),
    "webp and bytes behind it": encoded(PICTURE, "WEBP", lossless=True) + b"RIFF",
    "a short JFIF segment": JPEG[:2] + jpeg_segment(0xE0, b"JFIF\0\1") + JPEG[20:],
    "a resolution of nothing": JPEG[:2] + jpeg_segment(0xE0, b"JFIF\0\1\1\1\0\0\0\0\0\0") + JPEG[20:],
    "an unknown JFIF": JPEG[:2] + jpeg_segment(0xE0, b"JFIF\0\7\7\1\0\1\0\1\0\0") + JPEG[20:],
    "half of a colour profile": JPEG[:2] + jpeg_segment(0xE2, b"ICC_PROFILE\0\1\2x") + JPEG[2:],
    "no colour profile": JPEG[:2] + jpeg_segment(0xE2, b"ICC_PROFILE\0") + JPEG[2:],
    "an index of no pictures": JPEG[:2] + jpeg_segment(0xE2, b"MPF\0II*\0\x08\0\0\0\0\0") + JPEG[2:],
    "broken settings of Photoshop": JPEG[:2] + jpeg_segment(0xED, b"Photoshop 3.0\x008BIM\4\4\0\0") + JPEG[2:],
    "a short segment of Adobe": JPEG[:2] + jpeg_segment(0xEE, b"Adobe") + JPEG[2:],
    "an unknown code of Adobe": JPEG[:2] + jpeg_segment(0xEE, b"Adobe\0d\0\0\0\0\7") + JPEG[2:],
    "many long comments": JPEG[:2] + 70 * jpeg_segment(0xFE, bytes(65000)) + JPEG[2:],
    "bytes behind the end of a JPEG": JPEG + b"a film",
    "padding before the end of a JPEG": JPEG[:-2] + bytes(64) + JPEG[-2:],
    "padding before a marker": JPEG[:2] + b"\xff" * 9 + JPEG[2:],
}  # fmt: skip


@pytest.mark.parametrize("kind", METADATA)
def test_what_is_not_pixels_does_not_decide_about_them(tmp_path: Path, kind: str) -> None:
    content = METADATA[kind]
    problems, pixels = decoded(tmp_path, content, (SIDE, SIDE))
    assert problems == []
    assert pixels is not None
    assert (pixels == (FROM_JPEG if content.startswith(b"\xff\xd8") else PIXELS)).all()


def test_the_orientation_in_xmp_counts_where_exif_has_none(tmp_path: Path) -> None:
    xmp = jpeg_segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<rdf:Description tiff:Orientation="3"/>')
    problems, pixels = decoded(tmp_path, JPEG[:2] + xmp + JPEG[2:], (SIDE, SIDE))
    assert problems == ["exif_rotated"]
    assert pixels is not None
    assert (pixels == np.rot90(FROM_JPEG, 2)).all()
    upright = JPEG[:2] + jpeg_segment(0xE1, exif(1)) + xmp + JPEG[2:]
    assert decoded(tmp_path, upright, (SIDE, SIDE))[0] == []


OTHER = PICTURE.transpose(Image.Transpose.ROTATE_90)


def several(form: str, **options: Any) -> bytes:
    return encoded(PICTURE, form, save_all=True, append_images=[OTHER], **options)


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        (lambda: several("MPO", quality=95, subsampling=0), []),
        (lambda: encoded(PICTURE, "GIF", save_all=True), ["palette"]),
        (lambda: encoded(PICTURE, "PNG", save_all=True), []),
        (lambda: encoded(PICTURE, "WEBP", save_all=True, lossless=True), []),
        (lambda: png(SIDE, SIDE, ROWS, before=chunk(b"acTL", struct.pack(">II", 1, 0))), []),
        (lambda: gif(SIDE, SIDE, GREY.tobytes(), end=False), []),
        (lambda: several("GIF"), ["animated"]),
        (lambda: several("PNG"), ["animated"]),
        (lambda: several("PNG", default_image=True), []),
        (lambda: several("WEBP", lossless=True), ["animated"]),
    ],
    ids=["mpo", "gif", "apng", "webp", "apng of one", "gif without an end",
         "gif of two", "apng of two", "apng of one beside another", "webp of two"],
)  # fmt: skip
def test_only_pictures_that_move_are_animated(
    tmp_path: Path, content: Callable[[], bytes], problems: list[str]
) -> None:
    found, pixels = decoded(tmp_path, content(), (SIDE, SIDE))
    assert found == problems
    assert (pixels is None) == ("animated" in problems)
    found, pixels = decoded(tmp_path, content(), (SIDE, SIDE), **WARN)
    assert pixels is not None
    with Image.open(io.BytesIO(content())) as image:
        first = np.asarray(image.convert("RGB"))
    assert (pixels == first).all()
