"""Names of folders that say split and class, or split and set: what is taken for which."""

from pathlib import Path

import pytest
from picture_folders import Pictures, remarks, run

from troika.errors import DatasetError


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    return Pictures(tmp_path / "set")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("asl_train", "asl_test"),
        ("cifar10-train", "cifar10-test"),
        ("trainImages", "testImages"),
        ("trainval", "test"),
    ],
)
def test_splits_are_known_by_names_that_name_the_set_too(pictures: Pictures, train: str, test: str) -> None:
    made = run(pictures.write(f"{train}/cat").write(f"{train}/dog").write(f"{test}/cat").write(f"{test}/dog"))
    assert made.dataset.info.classes == ("cat", "dog")
    assert {file.split("/")[0] for file, (_, split) in pictures.where(made).items() if split == "test"} == {test}


@pytest.mark.parametrize(
    "folders",
    [
        ["train_cat", "train_dog", "test_cat", "test_dog"],
        ["cat-test", "cat-train", "dog-test", "dog-train"],
        ["train_A", "train_B"],
        ["asl_train", "asl_test", "other"],
    ],
)
def test_names_that_say_split_and_class_in_one_are_asked_about(pictures: Pictures, folders: list[str]) -> None:
    for folder in folders:
        pictures.write(folder, 20)
    with pytest.raises(DatasetError, match="whose names say split and class in one; give a folder for each class"):
        run(pictures)
    assert run(pictures, splits="classes").dataset.info.classes == tuple(sorted(folders))


def test_class_names_may_hold_words_of_splits(pictures: Pictures) -> None:
    made = run(pictures.write("test tube", 60).write("train station", 60))
    assert made.dataset.info.classes == ("test tube", "train station")


def test_a_folder_without_images_beside_splits_does_not_matter(pictures: Pictures) -> None:
    pictures.write("train/cat").write("train/dog").write("test/cat").write("test/dog")
    (pictures.root / "annotations").mkdir()
    (pictures.root / "annotations/all.json").write_text("{}")
    made = run(pictures)
    assert made.dataset.info.classes == ("cat", "dog")
    assert "annotations holds no image" in remarks(made)
    assert made.refused["left_out"] == ["annotations/all.json"]


def test_train_without_class_folders_is_not_left_out_for_a_test_folder_that_has_some(pictures: Pictures) -> None:
    with pytest.raises(DatasetError, match=r"train holds images in no class folders, but test has class folders"):
        run(pictures.write("train").write("test/cat").write("test/dog"))


def test_a_folder_of_all_images_of_a_test_folder_is_no_class(pictures: Pictures) -> None:
    pictures.write("train/n01/images", 60).write("train/n02/images", 60).write("val/images").write("test/images")
    made = run(pictures)
    assert made.dataset.info.classes == ("n01", "n02")
    assert sorted(made.refused["left_out"]) == ["test/", "val/"]
    assert "val is left out: its 40 images lie in no class folder" in remarks(made)


@pytest.mark.parametrize(("other", "name"), [("Cat", "cat"), ("caf\u00e9", "cafe\u0301"), ("CAT", "cat")])
def test_a_class_spelled_in_two_ways_is_one(pictures: Pictures, other: str, name: str) -> None:
    for part, folder in (("train", name), ("train", "dog"), ("test", other), ("test", "dog")):
        pictures.write(f"{part}/{folder}")
    made = run(pictures)
    assert made.dataset.info.classes == (name, "dog")
    assert f"{other} and {name} are one class, {name}" in remarks(made)
    for file, (label, _) in pictures.where(made).items():
        assert label == ("dog" if "/dog/" in file else name)


def test_classes_that_differ_in_case_alone_stay_apart(pictures: Pictures) -> None:
    for part in ("train", "test"):
        pictures.write(f"{part}/a").write(f"{part}/A")
    assert run(pictures).dataset.info.classes == ("A", "a")


def test_splits_in_some_class_folders_alone_are_said_to_be_no_splits(pictures: Pictures) -> None:
    made = run(pictures.write("cat/train", 60).write("cat/test").write("dog", 60))
    assert made.dataset.info.classes == ("cat", "dog")
    assert "splits: hashed; folders in class folders are called like splits, but dog/000.png" in remarks(made)
