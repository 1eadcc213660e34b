"""A sheet holds every pixel of every image in its place; a file appears whole or not at all."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from troika.errors import RequestError, TroikaError
from troika.pictures import data_uri, grid, save_png


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_stands_in_its_place(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 4, 3, channels), dtype=np.uint8)
    sheet = np.asarray(grid(images, columns=3, scale=2))
    assert sheet.shape[:2] == (2 * (2 * 5 + 1), 2 * (3 * 4 + 1))
    small = sheet.reshape(*sheet.shape[:2], channels)[::2, ::2]
    assert (small.repeat(2, axis=0).repeat(2, axis=1) == sheet.reshape(*sheet.shape[:2], channels)).all()
    for index, image in enumerate(images):
        top, left = 1 + index // 3 * 5, 1 + index % 3 * 4
        assert (small[top : top + 4, left : left + 3] == image).all()
    assert (small[::5] == 96).all()
    assert (small[:, ::4] == 96).all()


def test_a_sheet_is_about_square_unless_told_otherwise() -> None:
    assert grid(np.zeros((10, 2, 2, 1), dtype=np.uint8)).size == (4 * 3 + 1, 3 * 3 + 1)
    assert grid(np.zeros((2, 2, 2, 1), dtype=np.uint8), columns=9).size == (2 * 3 + 1, 3 + 1)


def test_a_picture_inside_a_page_holds_the_pixels() -> None:
    sheet = grid(np.full((1, 2, 2, 1), 7, dtype=np.uint8))
    kind, _, data = data_uri(sheet).partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert (np.asarray(picture) == np.asarray(sheet)).all()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 4, 4), "uint8"), ((0, 4, 4, 1), "uint8"), ((1, 4, 4, 2), "uint8"), ((1, 4, 4, 1), "float32")],
)
def test_what_is_not_images_is_refused(shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(RequestError, match="images must be uint8"):
        grid(np.zeros(shape, dtype=dtype))


@pytest.mark.parametrize("wrong", [{"columns": 0}, {"scale": 0}])
def test_wrong_measures_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(RequestError, match="columns and scale must be at least 1"):
        grid(np.zeros((1, 1, 1, 1), dtype=np.uint8), **wrong)


def test_a_png_holds_the_pixels_and_replaces_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "sheet.png"
    for value in (1, 200):
        save_png(grid(np.full((1, 2, 2, 3), value, dtype=np.uint8)), path)
        with Image.open(path) as picture:
            assert (np.asarray(picture)[1:-1, 1:-1] == value).all()
    assert list(path.parent.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    picture = grid(np.zeros((1, 1, 1, 1), dtype=np.uint8))
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "x.png", tmp_path / "folder"):
        with pytest.raises(TroikaError, match=f"cannot write {path}"):
            save_png(picture, path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
