"""Whatever a file holds, it is used or refused with a reason, and the run goes on."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoded import form
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_bytes import exif, jpeg_segment
from PIL import Image
from raw_images import chunk, encoded, prepare, random_images, smooth_picture, write_folder

from troika.datasets import formats
from troika.datasets.decoding import decode_files, size_of
from troika.datasets.problems import Policies

MODES = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "JPEG": ["L", "RGB", "CMYK"],
    "MPO": ["L", "RGB"],
    "WEBP": ["L", "RGB", "RGBA"],
    "GIF": ["1", "L", "P", "RGB", "RGBA"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"],
    "TIFF": ["L", "RGB"],
}


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Any format, mode and size; some damaged, cut, continued, or with metadata of any bytes."""
    kind = draw(st.sampled_from(list(MODES)))
    mode = draw(st.sampled_from(MODES[kind]))
    image = smooth_picture(draw(st.integers(1, 24)), draw(st.integers(1, 24)), draw(st.integers(0, 99)))
    image = image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode)
    options: dict[str, Any] = {}
    if kind == "JPEG":
        options = {"progressive": draw(st.booleans()), "restart_marker_blocks": draw(st.integers(0, 2))}
    if kind in ("PNG", "GIF", "WEBP", "MPO") and mode != "I;16" and draw(st.booleans()):
        options |= {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]}
    content = encoded(image, kind, **options)
    metadata = draw(st.one_of(st.none(), st.binary(max_size=40), st.integers(0, 9).map(exif)))
    if metadata is not None and content.startswith(b"\xff\xd8"):
        marker = draw(st.sampled_from([0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE]))
        content = content[:2] + jpeg_segment(marker, metadata) + content[2:]
    elif metadata is not None and content.startswith(b"\x89PNG"):
        name = draw(
            st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tRNS", b"acTL", b"gAMA", b"PLTE"])
        )
        content = content[:33] + chunk(name, metadata) + content[33:]
    spoiled = bytearray(content)
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        spoiled[draw(st.integers(0, len(spoiled) - 1))] = draw(st.integers(0, 255))
    content = bytes(spoiled)
    end = draw(st.one_of(st.none(), st.integers(0, len(content))))
    return content[:end] + draw(st.one_of(st.just(b""), st.binary(max_size=9), st.just(b"\xff\xd9")))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(content=files(), channels=st.sampled_from([1, 3]), scale=st.booleans(), warn=st.booleans())
def test_each_file_ends_used_or_refused_with_a_reason(
    tmp_path: Path, content: bytes, channels: Any, scale: bool, warn: bool
) -> None:
    (tmp_path / "file").write_bytes(content)
    policies = dict.fromkeys(
        ("animated", "sixteen_bit", "cmyk", "transparent", "too_small"), "warn" if warn else "fail"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode_files([str(tmp_path / "file")], form((16, 16), channels, scale=scale, **policies))
    assert found.images.shape == (len(found.positions), 16, 16, channels)
    assert all(note.problem in Policies.model_fields and note.detail for note in found.notes)
    if not len(found.positions):
        assert len(found.notes) > 0
    size_of(str(tmp_path / "file"), 10**7)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=60),
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM"]),
)
def test_any_bytes_are_refused_with_a_reason(tmp_path: Path, content: bytes, start: bytes) -> None:
    (tmp_path / "file").write_bytes(start + content)
    found = decode_files([str(tmp_path / "file")], form((16, 16), scale=True, too_small="warn"))
    assert len(found.positions) + len(found.notes) > 0


class StrangeError(Exception):
    """One that nobody expected."""


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("PNG", StrangeError("of a kind")),
        ("JPEG", StrangeError("a name that is no text: \udcff")),
        ("WEBP", RecursionError("too deep")),
        ("GIF", MemoryError()),
        ("BMP", AssertionError()),
    ],
)
def test_an_exception_that_nobody_expected_costs_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, name: str
) -> None:
    good = write_folder(
        tmp_path / "good", random_images(60, channels=3, size=(16, 16)), np.arange(60) % 2, suffix="png"
    )
    picture = smooth_picture(16, 16, 7)
    (good / "a" / "bad").write_bytes(encoded(picture, name))
    struck = (good / "a" / "bad").read_bytes()

    def strike(opened: Any) -> Any:
        def opener(content: bytes) -> Any:
            if content == struck:
                raise error
            return opened(content)

        return opener

    monkeypatch.setattr(formats, "open_webp", strike(formats.open_webp))
    monkeypatch.setattr(formats, "_OPENERS", {magic: strike(opened) for magic, opened in formats._OPENERS.items()})
    made = prepare(tmp_path / "out", good, image_size=16)
    assert made.quarantined() == {"a/bad": "unreadable"}
    (entry,) = made.refused["quarantined"]
    said = str(error).encode(errors="backslashreplace").decode()
    assert entry["detail"] == (f"{type(error).__name__}: {said}" if said else type(error).__name__)


def test_a_file_like_a_film_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "film.png").open("wb") as file:
        file.truncate(2**34)
    found = decode_files([str(tmp_path / "film.png")], form((16, 16)))
    assert [note.problem for note in found.notes] == ["unreadable"]
    with (tmp_path / "film.png").open("r+b") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
    found = decode_files([str(tmp_path / "film.png")], form((16, 16)))
    assert [note.problem for note in found.notes] == ["oversized"]


def test_the_first_picture_gives_the_size_as_it_is_seen(tmp_path: Path) -> None:
    file = io.BytesIO()
    smooth_picture(10, 20, 1).save(file, "JPEG", exif=exif(6))
    (tmp_path / "file").write_bytes(file.getvalue())
    assert size_of(str(tmp_path / "file"), 10**7) == (20, 10)
    assert size_of(str(tmp_path / "file"), 199) is None
