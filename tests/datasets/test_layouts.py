"""Folders as people have them: what is taken for classes, for splits and for no image at all, and said so."""

from pathlib import Path

import numpy as np
import pytest
from picture_folders import Pictures, remarks, run
from raw_images import prepare, random_images

from troika.cli_data import set_version
from troika.datasets.contract import SPLITS
from troika.datasets.sources.layout import split_of
from troika.datasets.sources.tree import is_no_image, natural
from troika.errors import DatasetError, ParameterError


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    return Pictures(tmp_path / "set")


@pytest.mark.parametrize(
    "names",
    [("train", "val", "test"), ("Training", "VALIDATION", "Testing"), ("train_set", "valid", "test-images")],
)
def test_given_splits_are_used_and_said(pictures: Pictures, names: tuple[str, ...]) -> None:
    for name in names:
        pictures.write(f"{name}/cat").write(f"{name}/dog")
    made = run(pictures)
    assert made.dataset.info.classes == ("cat", "dog")
    found = pictures.where(made)
    assert len(found) == 240
    for file, (label, split) in found.items():
        assert SPLITS[names.index(file.split("/")[0])] == split
        assert file.split("/")[1] == label
    assert "splits: given, by the folders" in remarks(made)
    assert "splits: given, by the folders" in made.report
    assert made.dataset.info.source == "folder set, its own splits"


def test_given_splits_are_one_set_where_hashing_is_asked_for(pictures: Pictures, tmp_path: Path) -> None:
    for name in ("train", "test"):
        pictures.write(f"{name}/cat").write(f"{name}/dog")
    made = run(pictures, splits="hashed")
    assert made.dataset.info.classes == ("cat", "dog")
    assert len({split for file, (_, split) in pictures.where(made).items() if file.startswith("train/")}) == 3
    assert "splits: hashed; what lies in test, train is one set" in remarks(made)
    plain = Pictures(pictures.root.parent / "again" / "set")  # the same name: the same pictures
    plain.write("train/cat").write("train/dog").write("test/cat").write("test/dog")
    flat = tmp_path / "flat"
    for path in sorted(plain.root.rglob("*.png")):
        (flat / path.parent.name).mkdir(parents=True, exist_ok=True)
        path.rename(flat / path.parent.name / f"{path.parent.parent.name}-{path.name}")
    assert prepare(flat.parent / "out2", flat).dataset.info.content_hash == made.dataset.info.content_hash


@pytest.mark.parametrize("missing", ["validation", "test"])
def test_a_split_that_is_not_given_is_taken_out_of_train_by_hash(pictures: Pictures, missing: str) -> None:
    given = {"test": "validation", "validation": "test"}[missing]
    for name in ("train", given):
        pictures.write(f"{name}/cat", 100).write(f"{name}/dog", 100)
    made = run(pictures)
    found = pictures.where(made)
    assert {split for file, (_, split) in found.items() if file.startswith(given)} == {given}
    assert {split for file, (_, split) in found.items() if file.startswith("train")} == {"train", missing}
    assert f"; {missing} is taken out of train by hash" in remarks(made)
    assert 10 < made.dataset.info.counts[missing] < 80  # type: ignore[index]


def test_an_image_in_train_and_test_stays_in_test(pictures: Pictures) -> None:
    for name in ("train", "val", "test"):
        pictures.write(f"{name}/cat").write(f"{name}/dog")
    (pictures.root / "train/cat/again.png").write_bytes((pictures.root / "test/cat/000.png").read_bytes())
    made = run(pictures)
    assert made.quarantined() == {"train/cat/again.png": "duplicate"}
    assert pictures.where(made)["test/cat/000.png"] == ("cat", "test")


def test_splits_inside_class_folders_are_used_too(pictures: Pictures) -> None:
    for name in ("cat", "dog"):
        pictures.write(f"{name}/train").write(f"{name}/test", 20).write(f"{name}/valid", 20)
    found = pictures.where(run(pictures))
    assert len(found) == 160
    names = {"train": "train", "valid": "validation", "test": "test"}
    assert all((file.split("/")[0], names[file.split("/")[1]]) == place for file, place in found.items())


def test_split_folders_without_class_folders_are_splits_of_one_class(pictures: Pictures) -> None:
    made = run(pictures.write("train", 60).write("val", 20).write("test", 20))
    assert made.dataset.info.classes == ("images",)
    assert made.dataset.info.counts == {"train": 60, "validation": 20, "test": 20}


def test_a_test_folder_without_classes_is_left_out_and_named(pictures: Pictures) -> None:
    """As competitions give it: nobody may know what its images are."""
    made = run(pictures.write("train/cat", 60).write("train/dog", 60).write("test", 30))
    assert sum(made.dataset.info.counts.values()) == 120
    assert "test is left out: its 30 images lie in no class folder" in remarks(made)
    assert made.refused["left_out"] == ["test/"]
    assert made.dataset.info.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (
            ["train/a", "test/a", "other/a"],
            "train, which are called like splits, beside other; give a folder of splits",
        ),
        (["train/a", "cat"], "holds train, which are called like splits, beside cat"),
        (["trainA", "trainB", "testA", "testB"], "testA, testB, trainA, trainB, whose names say split and class"),
    ],
)
def test_folders_that_may_be_splits_or_classes_are_asked_about(
    pictures: Pictures, folders: list[str], words: str
) -> None:
    for folder in folders:
        pictures.write(folder, 20)
    with pytest.raises(DatasetError, match=words):
        run(pictures)
    assert "train" in "".join(run(pictures, splits="classes").dataset.info.classes)


def test_a_class_may_be_called_train(pictures: Pictures) -> None:
    made = run(pictures.write("train").write("bus"))
    assert made.dataset.info.classes == ("bus", "train")
    assert remarks(made) == "train is taken for a class, though it is called like a split"


@pytest.mark.parametrize("folders", [["cat", "dog"], ["val/cat", "test/cat"]])
def test_given_splits_that_are_not_there_are_named(pictures: Pictures, folders: list[str]) -> None:
    for folder in folders:
        pictures.write(folder)
    with pytest.raises(DatasetError, match=r"^splits: .*set splits to hashed"):
        run(pictures, splits="given")


def test_a_class_that_is_in_one_split_alone_is_named(pictures: Pictures) -> None:
    for name in ("train", "val", "test"):
        pictures.write(f"{name}/cat")
    with pytest.raises(DatasetError, match=r"'owl' has no image in the validation .* or set splits to hashed"):
        run(pictures.write("train/owl"))


def test_splits_and_transpose_of_what_has_neither_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=random_images(40), labels=np.arange(40) % 2)
    for changes, words in (
        ({"splits": "given"}, "^splits: .*x.npz holds no splits"),
        ({"transpose": True}, "^tran"),
    ):
        with pytest.raises(ParameterError, match=words):
            prepare(tmp_path / "out", tmp_path / "x.npz", **changes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train", "train"), ("TRAIN", "train"), ("Training", "train"), ("training_set", "train"),
        ("train2017", "train"), ("seg_train", "train"), ("images_training_rev1", "train"), ("trainset", "train"),
        ("val", "validation"), ("Valid", "validation"), ("validation", "validation"), ("dev", "validation"),
        ("test", "test"), ("testing", "test"), ("test-images", "test"), ("eval", "test"),
        ("cat", None), ("trainer", None), ("test_tube", None), ("training_shoes", None), ("1", None), ("", None),
        ("train_test", None), ("contest", None),
    ],
)  # fmt: skip
def test_a_split_is_known_by_its_name(name: str, expected: str | None) -> None:
    assert split_of(name) == expected


@pytest.mark.parametrize("deep", ["inner", "a/b/c"])
def test_class_folders_some_folders_too_deep_are_found_and_said(pictures: Pictures, deep: str) -> None:
    made = run(pictures.write(f"{deep}/cat").write(f"{deep}/dog"))
    assert made.dataset.info.classes == ("cat", "dog")
    assert f"class folders are those in {deep}, the only folder" in remarks(made)


def test_split_folders_too_deep_are_found(pictures: Pictures) -> None:
    """As in one well-known archive: training_set/training_set/cats."""
    for name in ("training_set", "test_set"):
        pictures.write(f"{name}/{name}/cats", 60).write(f"{name}/{name}/dogs", 60)
    made = run(pictures)
    assert made.dataset.info.classes == ("cats", "dogs")
    assert made.dataset.info.counts["test"] == 120


def test_one_class_folder_with_images_stays_a_class(pictures: Pictures) -> None:
    assert run(pictures.write("cats")).dataset.info.classes == ("cats",)


def test_class_names_with_numbers_are_in_the_order_of_the_numbers(pictures: Pictures) -> None:
    for number in range(12):
        pictures.write(str(number), 30)
    made = run(pictures)
    assert made.dataset.info.classes == tuple(map(str, range(12)))
    assert pictures.where(made)["10/000.png"][0] == "10"


def test_the_order_of_names_depends_on_nothing_but_the_names() -> None:
    names = ["01", "1", "001", "2", "10", "a10", "a9", "b", "a", "A", "1.5", "-1", "٣"]
    expected = ["001", "01", "1", "1.5", "2", "٣", "10", "-1", "A", "a", "a9", "a10", "b"]
    for seed in range(5):
        shuffled = np.random.default_rng(seed).permutation(names).tolist()
        assert sorted(shuffled, key=natural) == expected, seed


def test_what_is_no_image_by_its_name_is_left_out_and_does_not_count(pictures: Pictures) -> None:
    pictures.write("cat").write("dog")
    litter = ["Thumbs.db", "desktop.ini", "LICENSE.txt", "metadata.jsonl", "README", ".DS_Store", "cat/Thumbs.db"]
    litter += [f"dog/{number:03}.txt" for number in range(40)]
    for name in litter:
        (pictures.root / name).write_text("no image")
    (pictures.root / "__MACOSX/cat").mkdir(parents=True)
    (pictures.root / "__MACOSX/cat/._000.png").write_text("no image")
    made = run(pictures, max_refused_share=0.0)
    assert made.quarantined() == {}
    assert sum(made.dataset.info.counts.values()) == 80
    assert sorted(made.refused["left_out"]) == sorted([*litter, "__MACOSX/"])
    (words,) = [words for words in made.refused["remarks"] if words.startswith("left out")]
    assert words.startswith("left out, no images by their names: 48; 41 *.txt (")
    for name in ("2 *.db (", "desktop.ini", "metadata.jsonl", "README", ".DS_Store", "__MACOSX/"):
        assert name in words


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *[
            (name, False)
            for name in ("a.png", "a.JPG", "a.jpeg", "a.heic", "a.svg", "a.tiff", "a", "12345.6", "a.b")
        ],
        *[
            (name, True)
            for name in ("a.txt", "A.TXT", "a.json", "a.csv", "a.zip", "a.tar.gz", "a.png.gz", "a.mp4")
        ],
        *[
            (name, True)
            for name in ("Thumbs.db", "License", "readme.md", "a.npz", "a.pdf", "Icon\r", "a.py", "a.xml")
        ],
    ],
)
def test_a_name_tells_what_is_no_image(name: str, expected: bool) -> None:
    assert is_no_image(name, is_folder=False) == expected


def test_what_neither_its_name_nor_its_bytes_say_to_be_an_image_is_left_out(pictures: Pictures) -> None:
    pictures.write("cat").write("dog")
    litter = ["cat/set.names", "cat/a.sqlite3", "dog/a.geojson", "dog/a.torrent", "ZbThumbnail.info", "_SUCCESS"]
    for name in litter:
        (pictures.root / name).write_text("no image")
    pictures.put("cat/photo.jpg_large")
    pictures.put("cat/nosuffix")
    made = run(pictures, max_refused_share=0.0)
    assert sum(made.dataset.info.counts.values()) == 82
    assert sorted(made.refused["left_out"]) == sorted(litter)


@pytest.mark.parametrize("name", ["a.tif", "a.pgm", "a.HEIC", "a.png", "a.psd", "nosuffix"])
def test_what_should_be_an_image_by_its_name_is_refused_whatever_it_holds(pictures: Pictures, name: str) -> None:
    pictures.write("cat").write("dog")
    (pictures.root / "cat" / name).write_bytes(b"II*\0 no image")
    assert run(pictures).quarantined() == {f"cat/{name}": "unreadable"}


def version_of(path: Path, outside_link: str = "warn") -> str:
    section = {"version": "", "path": str(path), "dvc": {"repo": ""}, "policies": {"outside_link": outside_link}}
    set_version({"prepare_data": section}, files=True)
    return str(section["version"])


def test_links_to_class_folders_are_followed_if_asked_for_and_changes_behind_them_are_seen(
    pictures: Pictures, tmp_path: Path
) -> None:
    pictures.write("cat")
    elsewhere = Pictures(tmp_path / "elsewhere")
    elsewhere.write("dogs/young").write("dogs/old")
    (pictures.root / "dog").symlink_to(tmp_path / "elsewhere/dogs")
    with pytest.raises(DatasetError, match=r"outside_link: .*set/dog is a link to a folder outside; set policies"):
        run(pictures)
    made = run(pictures, policies={"outside_link": "warn"})
    assert made.dataset.info.classes == ("cat", "dog")
    assert sum(made.dataset.info.counts.values()) == 120
    assert made.refused["warning_counts"] == {"outside_link": 80}
    before = version_of(pictures.root)
    assert version_of(pictures.root) == before
    elsewhere.put("dogs/young/new.png")
    assert version_of(pictures.root) != before


def test_images_that_are_all_links_to_elsewhere_are_named_and_used_if_asked_for(
    pictures: Pictures, tmp_path: Path
) -> None:
    """As DVC lays a folder out where its cache is linked."""
    for folder in ("cat", "dog"):
        (pictures.root / folder).mkdir(parents=True)
        for number in range(40):
            target = pictures.put(f"{folder}/{number}.png").rename(tmp_path / f"{folder}{number}")
            (pictures.root / folder / f"{number}.png").symlink_to(target)
    with pytest.raises(
        DatasetError, match=r"outside_link: .*cat/0\.png, as all 80 files, is a link to a file outside"
    ):
        run(pictures)
    assert sum(run(pictures, policies={"outside_link": "warn"}).dataset.info.counts.values()) == 80


def test_links_in_a_circle_are_named_and_end(pictures: Pictures) -> None:
    pictures.write("cat/sub").write("dog")
    (pictures.root / "cat/sub/up").symlink_to(pictures.root / "cat")
    (pictures.root / "dog/self").symlink_to("self")
    (pictures.root / "dog/all").symlink_to(pictures.root)
    for policy in ("quarantine", "warn"):
        made = run(pictures, policies={"outside_link": policy, "contradictory_labels": "quarantine"})
        refused = made.quarantined()
        assert (refused["cat/sub/up"], refused["dog/self"]) == ("unreadable", "unreadable")
        assert "leads in a circle, or to cat, which is read already" in made.report
        assert version_of(pictures.root, policy)


def test_links_that_cross_do_not_multiply(pictures: Pictures) -> None:
    """Each folder links to the two after it: as many ways as 2 to the power of their number."""
    for number in range(30):
        pictures.write(f"cat/{number}", 2)
        for link, other in (("l", number + 1), ("m", number + 1)):
            (pictures.root / f"cat/{number}/{link}").symlink_to(f"../{other}")
    made = run(pictures.write("dog", 60), max_refused_share=0.9)
    assert sum(made.dataset.info.counts.values()) == 120
    assert set(made.quarantined().values()) == {"unreadable"}


def test_a_hidden_circle_does_not_end_the_hash_of_files(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/circle").symlink_to("circle")
    assert version_of(tmp_path / "set")
    (tmp_path / "circle").symlink_to("circle")
    assert version_of(tmp_path / "circle")
