"""A dataset folder is what prepare_data wrote, byte for byte, or it is not opened."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_images import prepare_npz, random_images, split_up

from troika.datasets.contract import SPLITS, Dataset, Split, content_hash
from troika.datasets.keys import keys_of
from troika.datasets.shards import ShardedImages
from troika.datasets.writing import write_dataset
from troika.errors import DatasetError

IMAGES, LABELS = random_images(40, channels=3), np.arange(40) % 2


def write_small(folder: Path) -> Dataset:
    splits = split_up(IMAGES, LABELS)
    return write_dataset(folder, name="small", source="random", classes=("a", "b"), splits=splits)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_small(tmp_path_factory.mktemp("pristine") / "dataset")


@pytest.fixture
def folder(pristine: Dataset, tmp_path: Path) -> Path:
    return shutil.copytree(pristine.folder, tmp_path / "dataset")


def test_what_is_written_is_read_again(pristine: Dataset) -> None:
    opened = Dataset.open(pristine.folder)
    for name, split in split_up(IMAGES, LABELS).items():
        assert np.array_equal(opened.splits[name].images, split.images)
        assert np.array_equal(opened.splits[name].labels, split.labels)
        assert opened.info.counts[name] == len(opened.splits[name]) == len(split) > 0
    info = opened.info
    assert (info.name, info.source, info.shape, info.classes) == ("small", "random", (4, 3, 3), ("a", "b"))
    assert info.levels == len(np.unique(opened.train.images))
    assert (opened.train.images.dtype, opened.train.labels.dtype) == (np.uint8, np.int64)
    assert len(opened.held_out) == info.counts["validation"] + info.counts["test"]
    assert np.array_equal(opened.held_out.images[-1], opened.splits["test"].images[-1])


def test_images_are_mapped_and_cannot_be_changed_by_accident(pristine: Dataset) -> None:
    assert isinstance(pristine.train.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        pristine.train.images[0] = 0


def test_the_folder_holds_these_files_and_no_others(pristine: Dataset) -> None:
    found = {str(path.relative_to(pristine.folder)) for path in pristine.folder.rglob("*") if path.is_file()}
    arrays = {f"{split}/{array}.npy" for split in SPLITS for array in ("images", "labels")}
    assert found == arrays | {"dataset.json"}


def test_the_same_images_give_the_same_bytes(pristine: Dataset, tmp_path: Path) -> None:
    again = write_small(tmp_path / "again")
    for path in pristine.folder.rglob("*.*"):
        assert (again.folder / path.relative_to(pristine.folder)).read_bytes() == path.read_bytes()


def hash_of(splits: dict[Any, Split], shape: tuple[int, int, int] = (4, 3, 3), classes: str = "ab") -> str:
    keys = {name: keys_of(split.images) for name, split in splits.items()}
    return content_hash(shape, tuple(classes), keys, {name: split.labels for name, split in splits.items()})


def test_the_hash_is_of_shape_classes_images_and_labels(pristine: Dataset) -> None:
    """Written down once more, since models carry it for years."""
    digest = hashlib.sha256(b'[2, [4, 3, 3], ["a", "b"]]')
    for name in ("train", "validation", "test"):
        split = pristine.splits[name]
        digest.update(f"\n{name} {len(split)}\n".encode())
        digest.update(b"".join(hashlib.sha256(image.tobytes()).digest() for image in split.images))
        digest.update(split.labels.astype("<i8").tobytes())
    assert pristine.info.content_hash == f"sha256:{digest.hexdigest()}"


def test_the_hash_sees_each_pixel_label_name_and_border_between_splits(pristine: Dataset) -> None:
    plain = {
        name: Split(np.array(split.images), np.array(split.labels)) for name, split in pristine.splits.items()
    }
    found = {pristine.info.content_hash}
    assert hash_of(plain) in found
    for name in SPLITS:
        for array in ("images", "labels"):
            changed = {key: Split(split.images.copy(), split.labels.copy()) for key, split in plain.items()}
            getattr(changed[name], array).flat[-1] ^= 1
            found.add(hash_of(changed))
    found.add(hash_of(plain | {"validation": plain["test"], "test": plain["validation"]}))
    found.add(hash_of(plain, classes="ac"))
    found.add(hash_of(plain, shape=(3, 4, 3)))
    assert len(found) == 1 + 2 * len(SPLITS) + 3


@pytest.mark.parametrize("shard_images", [1, 7, 1000])
def test_shards_are_the_same_images_under_the_same_hash(
    pristine: Dataset, tmp_path: Path, shard_images: int
) -> None:
    splits = split_up(IMAGES, LABELS)
    written = write_dataset(
        tmp_path / "d", name="small", source="random", classes=("a", "b"), splits=splits, shard_images=shard_images
    )
    assert written.info.content_hash == pristine.info.content_hash
    train, plain = written.train.images, pristine.train.images
    assert isinstance(train, ShardedImages) == (shard_images < len(plain))
    assert (train.shape, train.dtype, len(train)) == (plain.shape, plain.dtype, len(plain))
    order = np.random.default_rng(0).permutation(len(plain))
    for chosen in (
        3,
        -1,
        slice(2, 11),
        slice(None),
        slice(9, 2, -2),
        slice(5, 5),
        order,
        order[:0],
        order - len(plain),
    ):
        assert np.array_equal(train[chosen], plain[chosen]), chosen
    assert np.array_equal(train[written.train.labels == 1], plain[written.train.labels == 1])
    assert np.array_equal(np.asarray(written.held_out.images), np.asarray(pristine.held_out.images))
    for wrong in (len(plain), -len(plain) - 1):
        with pytest.raises(IndexError):
            train[wrong]


def test_a_missing_or_changed_shard_is_noticed(tmp_path: Path) -> None:
    write_dataset(
        tmp_path / "d", name="s", source="r", classes=("a", "b"), splits=split_up(IMAGES, LABELS), shard_images=9
    )
    shard = tmp_path / "d" / "train" / "images-00001.npy"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DatasetError, match="has been changed"):
        Dataset.open(tmp_path / "d")
    np.save(shard, np.load(shard)[:-1])
    with pytest.raises(DatasetError, match=r"images-00001\.npy is uint8 \(8, 4, 3, 3\), but .* \(9, 4, 3, 3\)"):
        Dataset.open(tmp_path / "d")
    shard.unlink()
    with pytest.raises(DatasetError, match="train cannot be read"):
        Dataset.open(tmp_path / "d")


def test_the_order_of_the_source_does_not_matter(tmp_path: Path) -> None:
    images, labels = random_images(60), np.arange(60) % 2
    order = np.random.default_rng(5).permutation(60)
    one = prepare_npz(tmp_path / "one", images, labels)
    other = prepare_npz(tmp_path / "other", images[order], labels[order])
    assert one.info == other.info
    assert (tmp_path / "one/data.html").read_text() == (tmp_path / "other/data.html").read_text()
    reversed_labels = prepare_npz(tmp_path / "third", images, 1 - labels)
    assert reversed_labels.info.content_hash != one.info.content_hash


@pytest.mark.parametrize("name", [f"{split}/{array}.npy" for split in SPLITS for array in ("images", "labels")])
def test_a_changed_byte_is_noticed(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(DatasetError, match=rf"{folder} has been changed: .*; run prepare_data again"):
        Dataset.open(folder)


def set_json(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content: dict[str, Any] = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps(content | changes))

    return damage


def drop_key(folder: Path) -> None:
    content = json.loads((folder / "dataset.json").read_text())
    del content["levels"]
    (folder / "dataset.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "damage",
    [
        drop_key,
        set_json(colour="red"),
        set_json(schema_version=1),
        set_json(counts={"train": 3, "holdout": 4}),
        lambda folder: (folder / "dataset.json").write_text("{"),
        lambda folder: (folder / "dataset.json").write_text("[]"),
        lambda folder: (folder / "dataset.json").write_bytes(b"\xff{}"),
    ],
    ids=["a key less", "a key more", "another version", "another split", "no JSON", "a list", "no UTF-8"],
)
def test_a_damaged_description_is_named(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    with pytest.raises(DatasetError, match=r"dataset\.json is damaged: .*\n?.*; run prepare_data again|damaged"):
        Dataset.open(folder)


def test_a_folder_without_a_description_is_no_dataset(tmp_path: Path, folder: Path) -> None:
    (folder / "dataset.json").unlink()
    (tmp_path / "file").write_text("")
    for path in (folder, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(
            DatasetError, match=f"{path} is not a dataset: it has no dataset.json; run prepare_data"
        ):
            Dataset.open(path)


def save(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / name, array)


def save_changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / name, change(np.load(folder / name)))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "test/labels.npy").unlink(), "/test cannot be read"),
        (lambda folder: shutil.rmtree(folder / "validation"), "/validation cannot be read"),
        (lambda folder: (folder / "train/images.npy").write_bytes(b""), "/train cannot be read"),
        (lambda folder: (folder / "train/images.npy").write_bytes(b"text"), "/train cannot be read"),
        (lambda folder: np.save(folder / "train/images.npy", np.array([None])), "/train cannot be read"),
        (
            lambda folder: (folder / "train/images.npy").write_bytes(
                (folder / "train/images.npy").read_bytes()[:-1]
            ),
            "/train cannot be read",
        ),
        # These hold the right values, so a hash of the values does not see them.
        (save_changed("train/images.npy", lambda a: a.astype(float)), r"train/images.npy is float64 .* uint8"),
        (save_changed("train/images.npy", lambda a: a.astype(np.int16) + 256), r"train/images.npy is int16"),
        (save_changed("test/labels.npy", lambda a: a.astype(np.int32)), r"test/labels.npy is int32 .* int64"),
        (save_changed("test/labels.npy", lambda a: a[:, None]), r"test/labels.npy is int64 .*, 1\), but"),
        (
            save_changed("test/images.npy", lambda a: a[..., 0]),
            r"test/images.npy is uint8 .*4, 3\), but .* 4, 3, 3\)",
        ),
        (save_changed("test/images.npy", lambda a: a[:-1]), r"test/images.npy is uint8"),
        (save("validation/images.npy", np.zeros((0, 4, 3, 3), np.uint8)), "validation"),
        (set_json(shape=[3, 4, 3]), r"train/images.npy is uint8 .* dataset.json says uint8 .*3, 4, 3\)"),
        (set_json(counts={"train": 1, "validation": 1, "test": 1}), r"train/images.npy is .* says uint8 \(1, "),
        (set_json(counts={}), r"train/images.npy is .* says uint8 \(0, "),
    ],
)
def test_arrays_that_are_not_those_of_the_description_are_named(
    folder: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(folder)
    with pytest.raises(DatasetError, match=words) as caught:
        Dataset.open(folder)
    assert str(caught.value).endswith("run prepare_data again")


def test_an_archive_under_the_name_of_an_array_is_refused(folder: Path) -> None:
    archive = folder.parent / "archive.npz"
    np.savez(archive, images=np.load(folder / "train/images.npy"))
    shutil.move(archive, folder / "train/images.npy")
    with pytest.raises(DatasetError, match=r"train/images\.npy is no array"):
        Dataset.open(folder)


def test_an_empty_split_is_not_written(tmp_path: Path) -> None:
    splits = split_up(IMAGES, LABELS)
    splits["test"] = Split(splits["test"].images[:0], splits["test"].labels[:0])
    with pytest.raises(DatasetError, match="no image left for test; give more images or larger shares"):
        write_dataset(tmp_path / "dataset", name="x", source="x", classes=("a", "b"), splits=splits)
    assert list(tmp_path.iterdir()) == []
