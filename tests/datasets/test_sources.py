"""A source gives arrays that fit together, or says which file, array or value does not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from troika.datasets.sources import SOURCES, RawImages, read_source
from troika.errors import DatasetError, ParameterError, TroikaError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 0, 1, 2, 2])


def test_the_digits_are_what_is_known_of_them() -> None:
    raw = read_source("digits", None)
    assert raw.images.shape == (1797, 8, 8, 1)
    assert raw.images.dtype == np.uint8
    levels = np.unique(raw.images)
    assert len(levels) == 17
    assert (levels[0], levels[-1]) == (0, 255)
    assert set(np.diff(levels.astype(int))) == {15, 16}
    assert raw.classes == tuple("0123456789")
    assert np.bincount(raw.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_digits_take_no_file(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"^path: .* leave path empty"):
        read_source("digits", tmp_path)


def test_another_source_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ParameterError, match=r"^source: there is no 'cifar'; available: digits, npz$"):
        read_source("cifar", None)
    assert set(SOURCES) == {"digits", "npz"}


def read(folder: Path, **arrays: Any) -> RawImages:
    np.savez(folder / "images.npz", **arrays)
    return read_source("npz", folder / "images.npz")


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (IMAGES, (6, 4, 3, 1)),
        (IMAGES[..., None], (6, 4, 3, 1)),
        (np.stack([IMAGES] * 3, axis=-1), (6, 4, 3, 3)),
    ],
)
def test_grey_and_colour_images_are_read(tmp_path: Path, images: np.ndarray, shape: tuple[int, ...]) -> None:
    raw = read(tmp_path, images=images, labels=LABELS.astype(np.uint8))
    assert raw.images.shape == shape
    assert np.array_equal(raw.images.reshape(images.shape), images)
    assert raw.labels.dtype == np.int64
    assert raw.labels.tolist() == LABELS.tolist()
    assert raw.classes == ("0", "1", "2")
    assert raw.description == "npz images.npz"


def test_class_names_are_read(tmp_path: Path) -> None:
    raw = read(tmp_path, images=IMAGES, labels=LABELS, classes=np.array(["cat", "dog", "eel"]))
    assert raw.classes == ("cat", "dog", "eel")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": None}, "has no array 'images'; it holds ['labels']"),
        ({"labels": None}, "has no array 'labels'; it holds ['images']"),
        ({"images": IMAGES / 255}, "images must be uint8 in 0..255, not float64"),
        ({"images": IMAGES.astype(np.int64)}, "images must be uint8 in 0..255, not int64"),
        ({"images": IMAGES[0, 0]}, "images have shape (3,); expected (N, H, W), (N, H, W, 1) or (N, H, W, 3)"),
        ({"images": np.stack([IMAGES] * 4, axis=-1)}, "images have shape (6, 4, 3, 4); expected"),
        ({"images": IMAGES[..., None, None]}, "images have shape (6, 4, 3, 1, 1); expected"),
        ({"images": IMAGES[:, :0]}, "holds no image: images have shape (6, 0, 3, 1)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "holds no image"),
        ({"images": IMAGES[:5]}, "5 images but 6 labels; give one label per image"),
        ({"labels": LABELS / 1}, "labels must be integers of shape (N,), not float64 (6,)"),
        ({"labels": LABELS > 0}, "labels must be integers of shape (N,), not bool (6,)"),
        ({"labels": LABELS[:, None]}, "labels must be integers of shape (N,), not int64 (6, 1)"),
        ({"labels": LABELS - 1}, "label -1 of image 0 is out of range; 2 classes allow 0..1"),
        ({"labels": LABELS - 9}, "label -9 of image 0 is out of range"),
        ({"labels": LABELS + 2**61}, f"label {2 + 2**61} of image 4 is out of range; labels count from 0"),
        ({"labels": LABELS.astype(np.uint64) + np.uint64(2**63)}, "is out of range"),
        ({"classes": np.array(["a", "b"])}, "label 2 of image 4 is out of range; 2 classes allow 0..1"),
        ({"classes": np.array(["a", "b", "a"])}, "class names repeat: a, b, a"),
        ({"classes": np.array("abc")}, "classes must be names of shape (K,), not ()"),
        ({"labels": LABELS.astype(object)}, "is not a readable .npz file"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    arrays = {"images": IMAGES, "labels": LABELS, **changes}
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, **{name: array for name, array in arrays.items() if array is not None})
    assert words in str(caught.value)


def test_a_file_that_is_no_archive_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", images=IMAGES, labels=LABELS)
    content = (tmp_path / "good.npz").read_bytes()
    flipped = bytearray(content)
    flipped[200] ^= 1
    np.save(tmp_path / "array.npy", IMAGES)
    files = {
        "text": b"images", "empty": b"", "half": content[: len(content) // 2], "flipped": bytes(flipped),
        "array": (tmp_path / "array.npy").read_bytes(),
    }  # fmt: skip
    for name, damaged in files.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match=f"{path} is not a readable .npz file"):
            read_source("npz", path)
    with pytest.raises(DatasetError, match=f"{tmp_path} is not a readable .npz file"):
        read_source("npz", tmp_path)


def test_a_missing_file_or_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.npz does not exist; path must name a \.npz file"):
        read_source("npz", tmp_path / "none.npz")
    with pytest.raises(ParameterError, match=r"^path: source npz needs the path of a \.npz file"):
        read_source("npz", None)


def test_a_file_can_run_no_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    np.savez(tmp_path / "trap.npz", images=IMAGES, labels=LABELS, classes=np.array([Trap()], dtype=object))
    with pytest.raises(TroikaError, match="not a readable"):
        read_source("npz", tmp_path / "trap.npz")
    assert not (tmp_path / "sprung").exists()
