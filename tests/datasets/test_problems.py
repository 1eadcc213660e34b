"""What happens to each kind of bad image file: by default, and under the other policies.

Problems that no single file has, such as copies, are in test_set_problems.py.
"""

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from raw_images import (
    Made,
    chunk,
    encoded,
    prepare,
    prepare_params,
    random_images,
    write_folder,
)  # fmt: skip

from troika.cli_data import set_version
from troika.datasets import decoding
from troika.datasets.sources import open_source
from troika.errors import DatasetError

SIDE = 16


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """60 images in colour, two classes."""
    return write_folder(tmp_path / "good", random_images(60, channels=3, size=(SIDE, SIDE)), np.arange(60) % 2)


def picture(mode: str = "RGB", seed: int = 99, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    return Image.fromarray(random_images(1, channels=3, seed=seed, size=size)[0]).convert(mode)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(), "JPEG", exif=exif)


def transparent() -> bytes:
    image = picture("RGBA")
    image.putpixel((0, 0), (1, 2, 3, 0))
    return encoded(image)


def deep_rgb() -> bytes:
    """A PNG of 16 bits for each of three channels, which Pillow cannot write."""
    rows = b"".join(b"\0" + np.arange(SIDE * 3, dtype=">u2").tobytes() for _ in range(SIDE))
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


ANIMATED = {"save_all": True, "append_images": [picture(seed=98)], "duration": 100}
SIXTEEN = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (SIDE, SIDE)).astype(np.uint16))

KINDS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "text": ("unreadable", lambda: b"this is no image"),
    "damaged png": ("unreadable", lambda: encoded(picture())[:60] + b"\0" * 40 + encoded(picture())[100:]),
    "svg": ("unreadable", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "no bytes": ("empty_file", lambda: b""),
    "half a jpeg": ("truncated", lambda: (data := encoded(picture(), "JPEG"))[: len(data) // 2 + 150]),
    "half a png": ("truncated", lambda: (data := encoded(picture()))[: len(data) // 2]),
    "animated gif": ("animated", lambda: encoded(picture("P"), "GIF", **ANIMATED)),
    "animated png": ("animated", lambda: encoded(picture(), "PNG", **ANIMATED)),
    "animated webp": ("animated", lambda: encoded(picture(), "WEBP", **ANIMATED)),
    "16 bit grey": ("sixteen_bit", lambda: encoded(SIXTEEN)),
    "16 bit rgb": ("sixteen_bit", deep_rgb),
    "cmyk": ("cmyk", lambda: encoded(picture("CMYK"), "JPEG")),
    "transparent": ("transparent", transparent),
    "palette": ("palette", lambda: encoded(picture().quantize(64))),
    "turned": ("exif_rotated", rotated),
    "too large": ("oversized", lambda: encoded(Image.new("1", (1500, 1500)))),
    "too small": ("too_small", lambda: encoded(picture(size=(SIDE - 1, SIDE)))),
    "constant": ("constant", lambda: encoded(Image.new("RGB", (SIDE, SIDE), (9, 9, 9)))),
}  # fmt: skip
USED = {"palette", "exif_rotated"}
"""Problems whose default is `warn`."""


def with_bad(good: Path, content: bytes, **changes: Any) -> Made:
    (good / "a" / "bad").write_bytes(content)
    return prepare(good.parent / "out", good, image_size=SIDE, max_pixels=1_000_000, **changes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_file_is_quarantined_or_used_with_a_warning(good: Path, kind: str) -> None:
    problem, content = KINDS[kind]
    made = with_bad(good, content())
    kept = sum(made.dataset.info.counts.values())
    if problem in USED:
        assert made.quarantined() == {}
        assert made.refused["warning_counts"] == {problem: 1}
        assert [(entry["name"], entry["problem"]) for entry in made.refused["warnings"]] == [("a/bad", problem)]
        assert kept == 61
    else:
        assert made.quarantined() == {"a/bad": problem}
        assert kept == 60
    assert "a/bad" in made.report


def test_more_pixels_than_allowed_are_refused_of_plain_files_too(good: Path) -> None:
    with pytest.raises(DatasetError, match="60 of 60 images"):
        prepare(good.parent / "out", good, colour="rgb", image_size=SIDE, max_pixels=SIDE * SIDE - 1)
    refused = json.loads((good.parent / "out" / "refused.json").read_text())
    assert {entry["problem"] for entry in refused["quarantined"]} == {"oversized"}


@pytest.mark.parametrize("kind", ["text", "no bytes", "half a jpeg", "palette", "turned", "constant", "cmyk"])
def test_the_policy_fail_stops_the_step_and_names_file_and_policy(good: Path, kind: str) -> None:
    problem, content = KINDS[kind]
    with pytest.raises(DatasetError, match=rf"^a/bad: {problem}: .*; mend it, or change policies\.{problem} from"):
        with_bad(good, content(), policies={problem: "fail"})
    assert not (good.parent / "out" / "dataset").exists()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("animated png", picture),
        ("16 bit grey", lambda: Image.fromarray(np.rint(np.asarray(SIXTEEN) / 257).astype(np.uint8))),
        ("cmyk", lambda: Image.open(io.BytesIO(encoded(picture("CMYK"), "JPEG"))).convert("RGB")),
        ("transparent", lambda: _on_white(picture())),
        ("palette", lambda: picture().quantize(64).convert("RGB")),
        ("turned", lambda: Image.open(io.BytesIO(rotated())).transpose(Image.Transpose.ROTATE_270)),
    ],
)
def test_the_policy_warn_uses_what_it_says(good: Path, kind: str, expected: Callable[[], Image.Image]) -> None:
    problem, content = KINDS[kind]
    made = with_bad(good, content(), policies={problem: "warn"})
    wanted = np.asarray(expected().convert("RGB")).tobytes()
    assert any(image.tobytes() == wanted for split in made.dataset.splits.values() for image in split.images)
    assert made.refused["warning_counts"] == {problem: 1}


def _on_white(image: Image.Image) -> Image.Image:
    image.putpixel((0, 0), (255, 255, 255))
    return image


def test_opaque_alpha_and_black_and_white_are_no_problem(good: Path) -> None:
    (good / "b" / "alpha.png").write_bytes(encoded(picture("RGBA")))
    made = with_bad(good, encoded(picture("1", seed=97)))
    assert made.quarantined() == {}
    assert sum(made.dataset.info.counts.values()) == 62


def test_mixed_sizes_are_cut_square_and_scaled_or_named(good: Path) -> None:
    wide = encoded(picture(size=(2 * SIDE, 3 * SIDE)))
    made = with_bad(good, wide)
    assert sum(made.dataset.info.counts.values()) == 61
    assert "48 x 32" in made.report
    with pytest.raises(DatasetError, match=r"other_size: .*48 x 32 pixels, others have 16 x 16; set image_size"):
        prepare(good.parent / "second", good)
    made = prepare(good.parent / "third", good, policies={"other_size": "quarantine"})
    assert made.quarantined() == {"a/bad": "other_size"}


def test_links_that_lead_out_are_not_followed_unless_asked(good: Path, tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere.png"
    secret.write_bytes(encoded(picture()))
    (good / "a" / "link.png").symlink_to(secret)
    (good / "a" / "folder").symlink_to(tmp_path)
    (good / "b" / "inside.png").symlink_to(good / "a" / "0000.png")
    made = prepare(tmp_path / "out", good)
    assert made.quarantined() == {
        "a/link.png": "outside_link",
        "a/folder": "outside_link",
        "a/0000.png": "contradictory_labels",
        "b/inside.png": "contradictory_labels",
    }
    (good / "a" / "folder").unlink()
    followed = prepare(tmp_path / "out", good, policies={"outside_link": "warn"})
    assert "a/link.png" not in followed.quarantined()


def test_pipes_and_links_in_a_circle_hold_nobody_up(good: Path) -> None:
    os.mkfifo(good / "a" / "pipe.png")
    (good / "a" / "circle.png").symlink_to("circle.png")
    (good / "a" / "nowhere.png").symlink_to("gone.png")
    made = prepare(good.parent / "out", good)
    assert made.quarantined() == dict.fromkeys(("a/pipe.png", "a/circle.png", "a/nowhere.png"), "unreadable")
    assert "a pipe, socket, device or folder, not a file" in made.report


def test_names_that_are_not_utf8_are_written_out(good: Path) -> None:
    root = os.fsencode(good)
    Path(os.fsdecode(root + b"/a/\xff.png")).write_bytes(b"no image")
    (good / "b").rename(os.fsdecode(root + b"/\xfe"))
    made = prepare(good.parent / "out", good)
    assert made.quarantined() == {"a/\\udcff.png": "unreadable"}
    assert made.dataset.info.classes == ("a", "\\udcfe")
    set_version({"prepare_data": {"version": "", "path": str(good), "dvc": {"repo": ""}}}, files=True)


def test_too_many_bad_files_stop_the_step_and_are_listed(good: Path) -> None:
    for number in range(4):
        (good / "b" / f"bad{number}").write_bytes(b"")
    with pytest.raises(DatasetError) as caught:
        prepare(good.parent / "out", good, max_refused_share=0.05)
    assert str(caught.value) == (
        "4 of 64 images are unusable (6.2%), more than max_refused_share = 5.0% allows; the first: b/bad0, "
        f"empty_file (the file is empty); all are listed in {good.parent}/out/refused.json"
    )
    assert len(Made(good.parent / "out").quarantined()) == 4
    assert sorted(path.name for path in (good.parent / "out").iterdir()) == ["refused.json"]


@pytest.mark.parametrize("where", ["a/barred", "."])
def test_a_folder_that_may_not_be_read_is_named_and_not_passed_over(
    good: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    barred = good / where
    barred.mkdir(exist_ok=True)
    listed = os.scandir

    def refuse(path: Any) -> Any:  # root may read all
        if Path(path) == barred:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DatasetError, match=f"{barred.name} may not be read"):
        open_source(prepare_params(source="folder", path=str(good)))


def test_a_flat_folder_has_one_class_and_hidden_files_are_no_images(tmp_path: Path) -> None:
    write_folder(tmp_path, random_images(60, size=(8, 8)), np.zeros(60, np.int64), ["flat"])
    (tmp_path / "flat" / ".DS_Store").write_bytes(b"x")
    made = prepare(tmp_path / "out", tmp_path / "flat")
    assert made.dataset.info.classes == ("images",)
    assert made.dataset.info.shape == (8, 8, 1)
    assert made.quarantined() == {}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "holds no image"),
        (["a/.hidden"], r"holds no image: left out, no images by their names: 1; a/\.hidden$"),
        (["a/x.png", "y.png"], r"holds both folders \(a\) and files \(y.png\)"),
        (["a/x"], "holds no readable image: none of its 1 files is one"),
        (["a/x.txt"], r"holds no image: left out, no images by their names: 1; a/x\.txt$"),
    ],
)
def test_a_folder_that_is_none_of_images_is_named(tmp_path: Path, files: list[str], words: str) -> None:
    (tmp_path / "folder").mkdir()
    for name in files:
        (tmp_path / "folder" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "folder" / name).write_text("no image")
    with pytest.raises(DatasetError, match=words):
        prepare(tmp_path / "out", tmp_path / "folder")


def test_one_image_in_colour_among_grey_ones_makes_all_rgb(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "grey", random_images(60, size=(SIDE, SIDE)), np.arange(60) % 2)
    assert prepare(tmp_path / "one", root).dataset.info.shape == (SIDE, SIDE, 1)
    (root / "a" / "0001b.png").write_bytes(encoded(picture()))
    made = prepare(tmp_path / "two", root)
    assert made.dataset.info.shape == (SIDE, SIDE, 3)
    assert sum(made.dataset.info.counts.values()) == 61
    assert prepare(tmp_path / "three", root, colour="grey").dataset.info.shape == (SIDE, SIDE, 1)


@pytest.mark.parametrize("suffix", ["bmp", "webp"])
def test_file_names_and_formats_do_not_matter_but_pixels_and_classes_do(tmp_path: Path, suffix: str) -> None:
    images, labels = random_images(60, channels=3, size=(8, 8)), np.arange(60) % 2
    order = np.random.default_rng(1).permutation(60)
    one = prepare(tmp_path / "1", write_folder(tmp_path / "x" / "set", images, labels)).dataset
    same = write_folder(tmp_path / "y" / "set", images[order], labels[order], suffix=suffix)
    two = prepare(tmp_path / "2", same)
    assert two.dataset.info == one.info
    other = prepare(tmp_path / "3", write_folder(tmp_path / "z" / "set", images, labels, "bcdefghijk")).dataset
    assert other.info.content_hash != one.info.content_hash


@pytest.mark.parametrize("expected", [0, 3, 5, 9])
def test_a_file_of_another_size_than_a_moment_ago_is_read_whole(tmp_path: Path, expected: int) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert decoding._read(str(tmp_path / "file"), expected) == b"12345"


def test_grey_pictures_saved_as_webp_are_grey_if_asked_for(tmp_path: Path) -> None:
    images, labels = random_images(60, size=(8, 8)), np.arange(60) % 2
    grey = prepare(tmp_path / "1", write_folder(tmp_path / "png" / "set", images, labels)).dataset
    source = write_folder(tmp_path / "webp" / "set", images, labels, suffix="webp")
    assert prepare(tmp_path / "2", source, colour="grey").dataset.info == grey.info
    assert prepare(tmp_path / "3", source).dataset.info.shape == (8, 8, 3)
