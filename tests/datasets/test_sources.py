"""A source gives images that fit together, or says which file, array or value does not."""

import gzip
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_images import prepare_npz, prepare_params, random_images, write_folder

from troika.datasets.sources import SOURCES, open_source
from troika.datasets.sources.source import ImageSource
from troika.errors import DatasetError, ParameterError, TroikaError

IMAGES = random_images(6)[..., 0]
LABELS = np.array([0, 1, 0, 1, 2, 2])


def opened(path: Path | str, source: str = "auto", **changes: Any) -> ImageSource:
    return open_source(prepare_params(source=source, path=str(path), **changes))


def read(source: ImageSource) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels."""
    blocks = list(source.blocks(Path()))
    assert np.concatenate([block.indices for block in blocks]).tolist() == list(range(source.count))
    images = np.concatenate([block.images for block in blocks])
    assert images.shape == (source.count, *source.shape)
    return images, np.concatenate([block.labels for block in blocks])


def test_the_digits_are_what_is_known_of_them() -> None:
    source = opened("", "digits")
    images, labels = read(source)
    assert images.shape == (1797, 8, 8, 1)
    levels = np.unique(images)
    assert len(levels) == 17
    assert (levels[0], levels[-1]) == (0, 255)
    assert source.classes == tuple("0123456789")
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize(
    ("path", "source", "words"),
    [
        ("some.npz", "digits", r"^path: .* leave path empty"),
        ("some.npz", "mnist5k", r"^path: .* leave path empty"),
        ("", "cifar", r"^source: there is no 'cifar'; available: auto, digits, folder, idx, mnist5k, npz$"),
        ("", "auto", r"^path: source auto needs the path"),
        ("", "idx", r"^path: source idx needs a folder"),
        ("", "folder", r"^path: source folder needs the path"),
        ("", "npz", r"^path: source npz needs the path"),
    ],
)
def test_a_wrong_source_or_path_is_named(path: str, source: str, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        opened(path, source)


@pytest.mark.parametrize("source", ["auto", "idx", "npz", "folder"])
def test_a_missing_path_is_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(DatasetError, match=f"{tmp_path}/none .*path must name a"):
        opened(tmp_path / "none", source)


def test_auto_sees_what_lies_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", images=IMAGES, labels=LABELS)
    write_idx(tmp_path / "idx", "train", IMAGES, LABELS)
    write_folder(tmp_path / "folder", IMAGES[..., None], LABELS)
    assert opened(tmp_path / "images.npz").origin.kind == "npz"
    assert opened(tmp_path / "idx").origin.kind == "idx"
    assert opened(tmp_path / "idx" / "train-images-idx3-ubyte").origin.kind == "idx"
    assert opened(tmp_path / "folder").origin.kind == "folder"
    assert set(SOURCES) == {"digits", "folder", "idx", "mnist5k", "npz"}


# npz


def npz(folder: Path, **arrays: Any) -> ImageSource:
    np.savez(folder / "images.npz", **arrays)
    return opened(folder / "images.npz")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("images", "shape"),
    [(IMAGES, (4, 3, 1)), (IMAGES[..., None], (4, 3, 1)), (np.stack([IMAGES] * 3, axis=-1), (4, 3, 3))],
)
def test_arrays_are_read(tmp_path: Path, images: np.ndarray, shape: tuple[int, ...], compressed: bool) -> None:
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "images.npz", images=images, labels=LABELS.astype(np.uint8))
    source = opened(tmp_path / "images.npz")
    found, labels = read(source)
    assert np.array_equal(found.reshape(images.shape), images)
    assert (source.shape, labels.dtype, labels.tolist()) == (shape, np.int64, LABELS.tolist())
    assert source.classes == ("0", "1", "2")
    assert source.description == "npz images.npz"
    assert npz(tmp_path, images=images, labels=LABELS, classes=np.array(list("xyz"))).classes == ("x", "y", "z")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": None}, "has no array 'images'; it holds ['labels']"),
        ({"labels": None}, "has no array 'labels'; it holds ['images']"),
        ({"images": IMAGES / 255}, "images must be uint8 in 0..255, not float64; images of 0..1 become so by"),
        ({"images": IMAGES.astype(np.int64)}, "images must be uint8 in 0..255, not int64"),
        ({"images": IMAGES[0, 0]}, "images have shape (3,); expected (N, H, W), (N, H, W, 1) or (N, H, W, 3)"),
        ({"images": np.stack([IMAGES] * 4, axis=-1)}, "images have shape (6, 4, 3, 4); expected"),
        ({"images": IMAGES[..., None, None]}, "images have shape (6, 4, 3, 1, 1); expected"),
        ({"images": IMAGES[:, :0]}, "holds no image: images have shape (6, 0, 3)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "holds no image"),
        ({"images": IMAGES[:5]}, "5 images but 6 labels; give one label per image"),
        ({"images": np.asfortranarray(IMAGES)}, "'images' is in Fortran order"),
        ({"labels": LABELS / 1}, "labels must be integers of shape (N,), not float64 (6,)"),
        ({"labels": LABELS > 0}, "labels must be integers of shape (N,), not bool (6,)"),
        ({"labels": LABELS[:, None]}, "labels must be integers of shape (N,), not int64 (6, 1)"),
        ({"labels": LABELS - 1}, "label -1 of image 0 is out of range; 3 classes allow 0..2"),
        ({"labels": LABELS + 2**61}, f"label {2 + 2**61} of image 4 is out of range; labels count from 0"),
        ({"labels": LABELS.astype(np.uint64) + np.uint64(2**63)}, "is out of range"),
        ({"classes": np.array(["a", "b"])}, "label 2 of image 4 is out of range; 2 classes allow 0..1"),
        ({"classes": np.array(["a", "b", "a"])}, "class names repeat: a, b, a"),
        ({"classes": np.array("abc")}, "classes must be names of shape (K,), not ()"),
        ({"labels": LABELS.astype(object)}, "holds Python objects, which could run code"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    arrays = {"images": IMAGES, "labels": LABELS, **changes}
    if "Fortran" not in words and words.startswith("label -1"):
        arrays["classes"] = np.array(list("abc"))
    with pytest.raises(DatasetError) as caught:
        npz(tmp_path, **{name: array for name, array in arrays.items() if array is not None})
    assert words in str(caught.value)


def test_a_file_that_is_no_archive_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", images=IMAGES, labels=LABELS)
    content = (tmp_path / "good.npz").read_bytes()
    flipped = bytearray(content)
    flipped[200] ^= 1
    files = {"text": b"images", "empty": b"", "half": content[: len(content) // 2], "flipped": bytes(flipped)}
    for name, damaged in files.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match=f"{path} is not a readable .npz file"):
            read(opened(path))


def test_a_file_can_run_no_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    with pytest.raises(TroikaError, match="could run code"):
        npz(tmp_path, images=IMAGES, labels=LABELS, classes=np.array([Trap()], dtype=object))
    assert not (tmp_path / "sprung").exists()


def header(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def test_an_archive_that_would_harm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troika.datasets.sources.npz._BOMB_BYTES", 2**20)
    good = {"images.npy": header((6, 4, 3)) + IMAGES.tobytes(), "labels.npy": header((6,)) + bytes(6)}
    cases: list[tuple[dict[str, bytes], str]] = [
        ({**good, "../evil.npy": b"x"}, "its member '../evil.npy' names a path"),
        ({**good, "/etc/cron.d/evil": b"x"}, "its member '/etc/cron.d/evil' names a path"),
        ({**good, "..\\evil.npy": b"x"}, "names a path"),
        ({**good, "images.npy": bytes(2**22)}, "refused as a decompression bomb: 'images.npy' grows from"),
        (
            {**good, "images.npy": header((10**12, 64, 64)) + b"x"},
            "'images' promises (1000000000000, 64, 64), more",
        ),
        ({**good, "labels.npy": header((10**12,)) + b"x"}, "'labels' promises"),
        ({**good, "images.npy": good["images.npy"] + b"x"}, "goes on after what the header promises"),
    ]
    for number, (members, words) in enumerate(cases):
        path = tmp_path / f"{number}.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        with pytest.raises(DatasetError) as caught:
            read(opened(path))
        assert words in str(caught.value), number
    assert not list(tmp_path.glob("**/evil*"))


def test_a_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header((1, 4, 3)) + bytes(12))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("images.npy", header((1, 4, 3)) + bytes(12))
    with pytest.raises(DatasetError, match=r"its member 'images\.npy' is there twice"):
        opened(path)


# IDX


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, part: str, images: np.ndarray, labels: np.ndarray, *, packed: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    for name, array in ((f"images-idx{images.ndim}-ubyte", images), ("labels-idx1-ubyte", labels)):
        path = folder / f"{part}-{name}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(idx(array), mtime=0) if packed else idx(array))
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("channels", [None, 3])
def test_idx_files_are_read_all_parts_together(tmp_path: Path, packed: bool, channels: int | None) -> None:
    images = IMAGES if channels is None else np.stack([IMAGES] * channels, axis=-1)
    write_idx(tmp_path, "train", images[:4], LABELS[:4], packed=packed)
    write_idx(tmp_path, "t10k", images[4:], LABELS[4:], packed=packed)
    source = opened(tmp_path)
    found, labels = read(source)
    assert np.array_equal(found.reshape(images.shape), np.concatenate([images[4:], images[:4]]))
    assert labels.tolist() == [*LABELS[4:], *LABELS[:4]]
    assert source.classes == ("0", "1", "2")


def test_a_set_that_lies_there_packed_and_unpacked_is_read_once(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", IMAGES, LABELS, packed=True)
    write_idx(tmp_path, "train", IMAGES, LABELS)
    assert opened(tmp_path).count == 6


def test_names_with_a_dot_are_known_too(tmp_path: Path) -> None:
    (tmp_path / "train-images.idx3-ubyte").write_bytes(idx(IMAGES))
    (tmp_path / "train-labels.idx1-ubyte").write_bytes(idx(LABELS))
    assert opened(tmp_path).count == 6


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("images-idx3-ubyte", b"", "ends too early"),
        ("images-idx3-ubyte", b"PK\3\4" + bytes(40), "not an IDX file of bytes: it begins with 50 4b 03 04"),
        ("images-idx3-ubyte", b"\0\0\x0d\3" + bytes(40), "not an IDX file of bytes: it begins with 00 00 0d 03"),
        ("images-idx3-ubyte", idx(LABELS), "has 1 axes; expected 3 or 4"),
        ("images-idx3-ubyte", idx(IMAGES)[:-1], "promises (6, 4, 3), more than a file of 87 bytes|ends too early"),
        ("images-idx3-ubyte", idx(IMAGES) + b"x", "goes on after what its header promises"),
        ("images-idx3-ubyte", idx(IMAGES[:5]), "holds 5 images but train-labels-idx1-ubyte 6 labels"),
        ("images-idx3-ubyte", idx(IMAGES[:, :0]), "images have shape (0, 3, 1)"),
        ("images-idx3-ubyte", b"\0\0\x08\3" + b"\xff" * 12, "promises (4294967295, 4294967295, 4294967295), more"),
        ("labels-idx1-ubyte", idx(IMAGES), "has 3 axes; expected 1"),
        ("labels-idx1-ubyte", idx(LABELS)[:-1], "ends too early"),
        ("labels-idx1-ubyte", idx(LABELS) + b"x", "goes on after what its header promises"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    write_idx(tmp_path, "train", IMAGES, LABELS)
    (tmp_path / f"train-{name}").write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        read(opened(tmp_path))
    assert any(word in str(caught.value) for word in words.split("|")), str(caught.value)


def test_a_damaged_gzip_file_is_named(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", IMAGES, LABELS, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[40] ^= 1
    for damaged in (content[:-9], bytes(flipped), b"text"):
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match=f"{path} (is damaged|ends too early|goes on|is not an IDX)"):
            read(opened(tmp_path))


def test_what_is_missing_or_too_much_in_an_idx_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no file such as train-images-idx3-ubyte"):
        opened(tmp_path, "idx")
    write_idx(tmp_path, "emnist-letters-train", IMAGES, LABELS)
    write_idx(tmp_path, "emnist-digits-train", IMAGES, LABELS)
    with pytest.raises(
        DatasetError, match="several sets: emnist-digits-, emnist-letters-; give a folder with one"
    ):
        opened(tmp_path)
    assert opened(tmp_path / "emnist-digits-train-images-idx3-ubyte").count == 6
    (tmp_path / "emnist-digits-train-labels-idx1-ubyte").unlink()
    with pytest.raises(DatasetError, match=r"there must be emnist-digits-train-labels-idx1-ubyte or .*\.gz"):
        opened(tmp_path / "emnist-digits-train-images-idx3-ubyte")
    with pytest.raises(DatasetError, match="one is called such as train-images-idx3-ubyte"):
        opened(tmp_path / "emnist-letters-train-labels-idx1-ubyte")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("folders", [("images", "labels"), ("images",), ("labels",)])
def test_idx_files_in_folders_of_their_own_names_are_read(
    tmp_path: Path, folders: tuple[str, ...], packed: bool
) -> None:
    for part, some in (("train", slice(0, 4)), ("t10k", slice(4, 6))):
        write_idx(tmp_path, part, IMAGES[some], LABELS[some], packed=packed)
    for file in sorted(tmp_path.iterdir()):
        if any(word in file.name for word in folders):
            moved = file.rename(tmp_path / "moving")
            (tmp_path / file.name.removesuffix(".gz")).mkdir()
            moved.rename(tmp_path / file.name.removesuffix(".gz") / file.name)
    source = opened(tmp_path)
    assert source.origin.kind == "idx"
    assert np.array_equal(read(source)[0][..., 0], np.concatenate([IMAGES[4:], IMAGES[:4]]))
    # The archive that they come in holds the same files once more beside the folders.
    if "images" in folders and not packed:
        (tmp_path / "train-images.idx3-ubyte").write_bytes(idx(IMAGES[:4]))
        (tmp_path / "train-labels.idx1-ubyte").write_bytes(idx(LABELS[:4]))
        assert opened(tmp_path).count == 6


def test_idx_files_some_folders_too_deep_are_found_and_said(tmp_path: Path) -> None:
    (tmp_path / "MNIST").mkdir()
    write_idx(tmp_path / "MNIST" / "raw", "train", IMAGES, LABELS, packed=True)
    source = opened(tmp_path)
    assert (source.origin.kind, source.count) == ("idx", 6)
    assert source.remarks == ("IDX files are those in MNIST/raw",)


@pytest.mark.parametrize("channels", [None, 3])
def test_images_that_lie_on_their_side_are_turned_if_asked_for(tmp_path: Path, channels: int | None) -> None:
    images = IMAGES if channels is None else random_images(6, channels=3)
    write_idx(tmp_path, "train", images.swapaxes(1, 2), LABELS)
    assert opened(tmp_path).shape[:2] == (3, 4), "the control"
    source = opened(tmp_path, transpose=True)
    assert source.shape[:2] == (4, 3)
    assert np.array_equal(read(source)[0].reshape(images.shape), images)
    assert source.description == f"idx {tmp_path.name}, transposed"


def test_the_parts_of_an_idx_set_are_splits_if_asked_for(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", IMAGES[:4], LABELS[:4])
    write_idx(tmp_path, "t10k", IMAGES[4:], LABELS[4:])
    source = opened(tmp_path)
    assert source.given is None
    names = "t10k-images-idx3-ubyte, train-images-idx3-ubyte"
    assert source.remarks == (f"splits: hashed; {names} are one set, and split anew",)
    given = opened(tmp_path, splits="given")
    assert given.given is not None
    assert given.given.tolist() == [2, 2, 0, 0, 0, 0]
    assert given.remarks == (f"splits: given, by {names}; validation is taken out of train by hash",)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    with pytest.raises(DatasetError, match=r"^splits: .* must hold train, and test"):
        opened(tmp_path, splits="given")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("set.npy", "is a single array: save images and labels together"),
        ("set.zip", "is an archive, which is not unpacked here: unpack it"),
        ("SET.ZIP", "is an archive"),
        ("set.tar", "is an archive"),
        ("set.tar.gz", "is an archive"),
        ("set.parquet", "is a table"),
        ("set.csv", "is a table"),
        ("set.h5", "is an array file of a kind that is not read"),
        ("set.tfrecord", "is a file of records"),
        ("cat.JPG", "is a single image"),
        ("set.bin", "is no file of images: one is called such as train-images"),
    ],
)
def test_a_file_that_is_not_read_is_called_what_it_is(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DatasetError, match=f"{name} {words}"):
        opened(tmp_path / name)


def test_an_ending_in_capitals_is_known(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=LABELS)
    (tmp_path / "x.npz").rename(tmp_path / "X.NPZ")
    assert opened(tmp_path / "X.NPZ").count == 6


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (np.array([b"cat", b"dog", b"owl"]), ("cat", "dog", "owl")),
        (np.array(["größe".encode(), b"b", b"c"]), ("größe", "b", "c")),
        (np.array([b"\xff", b"b", b"c"]), ("\\udcff", "b", "c")),
        (np.array([10, 11, 12]), ("10", "11", "12")),
    ],
)
def test_class_names_of_any_type_are_text(tmp_path: Path, classes: Any, expected: tuple[str, ...]) -> None:
    assert npz(tmp_path, images=IMAGES, labels=LABELS, classes=classes).classes == expected


def test_parts_of_different_sizes_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, "train", IMAGES, LABELS)
    write_idx(tmp_path, "t10k", IMAGES[:, 1:], LABELS)
    with pytest.raises(DatasetError, match=r"images of different sizes: \[\(3, 3\), \(4, 3\)\]"):
        opened(tmp_path)


def test_levels_are_those_of_training_images_alone(tmp_path: Path) -> None:
    dataset = prepare_npz(tmp_path, random_images(40), np.zeros(40, np.int64))
    levels = {name: len(np.unique(split.images)) for name, split in dataset.splits.items()}
    assert dataset.info.levels == levels["train"]
    assert len(set(levels.values())) > 1, "the control: they differ between splits"
