"""Files that cannot be used as they are: the message says what they are, and what to do."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_folders import Pictures, run
from raw_images import prepare, random_images

from troika.cli_data import data_changes, set_version
from troika.errors import DatasetError, ParameterError

IMAGES = random_images(60, size=(5, 5))[..., 0]
LABELS = (np.arange(60) % 2).astype(np.uint8)


def write_idx(folder: Path, *, name: str = "train", packed: bool = False, suffix: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (("images-idx3", IMAGES), ("labels-idx1", LABELS)):
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        content = head + array.tobytes()
        path = folder / f"{name}-{kind}-ubyte{suffix}"
        path.write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize(("packed", "suffix"), [(True, ""), (False, ".gz")])
def test_whether_idx_files_are_packed_their_bytes_say(tmp_path: Path, packed: bool, suffix: str) -> None:
    """Browsers unpack what they fetch and keep the name."""
    write_idx(tmp_path / "set", packed=packed, suffix=suffix)
    assert sum(prepare(tmp_path / "out", tmp_path / "set").dataset.info.counts.values()) == 60


def test_idx_files_are_found_beside_folders_without_any(tmp_path: Path) -> None:
    """As torchvision's older versions leave them."""
    write_idx(tmp_path / "set/MNIST/raw")
    (tmp_path / "set/MNIST/processed").mkdir()
    (tmp_path / "set/MNIST/processed/training.pt").write_bytes(b"x")
    made = prepare(tmp_path / "out", tmp_path / "set")
    assert sum(made.dataset.info.counts.values()) == 60
    assert "IDX files are those in MNIST/raw" in made.refused["remarks"]


def test_idx_files_in_several_folders_are_asked_about(tmp_path: Path) -> None:
    write_idx(tmp_path / "set/a")
    write_idx(tmp_path / "set/b", name="t10k")
    with pytest.raises(DatasetError, match=r"set holds IDX files in several folders: a, b; give the path of one"):
        prepare(tmp_path / "out", tmp_path / "set")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (
            {"x_train": IMAGES, "y_train": LABELS},
            r"no array 'images'; .*x_train.*; save it as np\.savez\(path, images",
        ),
        (
            {"images": IMAGES, "labels": LABELS, "classes": np.array(["a", "b"], object)},
            r"array 'classes' holds Python objects, which could run code; save it with dtype=str",
        ),
    ],
)
def test_arrays_of_other_names_and_types_are_told_how_to_save(
    tmp_path: Path, arrays: dict[str, Any], words: str
) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(DatasetError, match=words):
        prepare(tmp_path / "out", tmp_path / "set.npz")


def test_pointers_of_git_lfs_are_told_from_images(pictures: Pictures) -> None:
    for folder in ("cat", "dog"):
        (pictures.root / folder).mkdir(parents=True)
        (pictures.root / folder / "a.png").write_bytes(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n"
        )
    words = (
        r"none of its 2 files is one; the first, cat/a.png, is unreadable: a pointer to Git LFS, .* `git lfs pull`"
    )
    with pytest.raises(DatasetError, match=words):
        run(pictures)


def test_a_class_without_usable_images_is_said_to_be_so_with_a_reason(pictures: Pictures) -> None:
    pictures.write("cat").write("dog")
    (pictures.root / "bird").symlink_to(".")
    with pytest.raises(DatasetError, match=r"no usable image of class bird \(bird: unreadable: leads in a circle"):
        run(pictures)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("a" * 5000, r"a{200}\.\.\. cannot be read: File name too long; give another path"),
        ("s3://bucket/set", "s3://bucket/set is a URL; fetch what it leads to"),
    ],
)
def test_a_path_that_cannot_be_looked_at_is_named(tmp_path: Path, path: str, words: str) -> None:
    for source in ("auto", "idx", "npz", "folder"):
        with pytest.raises(DatasetError, match=f"^path: {words}"):
            prepare(tmp_path / "out", path, source=source)
    with pytest.raises(DatasetError, match=f"^previous: {words}"):
        prepare(tmp_path / "out", "", source="digits", previous=path)
    if "://" in path:
        with pytest.raises(ParameterError, match=f"^--dataset: {words}"):
            data_changes(path, None, None, None, None)
    else:
        with pytest.raises(DatasetError, match=r"^path: .* cannot be read"):
            section = {"version": "", "path": path, "dvc": {"repo": ""}, "policies": {}}
            set_version({"prepare_data": section}, files=True)


def test_a_device_is_neither_file_nor_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"^/dev/null is neither a file nor a folder; path must name"):
        prepare(tmp_path / "out", "/dev/null")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"schema_version": 1}', "is of version 1, which another Troika wrote; run prepare_data again"),
        ("[]", "is damaged: Input should be an object; run prepare_data again"),
    ],
)
def test_an_earlier_dataset_that_is_not_read_is_told_in_one_line(
    pictures: Pictures, tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier/dataset.json").write_text(content)
    made = run(pictures.write("cat"), previous=str(tmp_path / "earlier"))
    earlier = tmp_path / "earlier"
    assert f"drift: not compared with {earlier}: {earlier}/dataset.json {words}" in made.refused["remarks"]


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    return Pictures(tmp_path / "set")
