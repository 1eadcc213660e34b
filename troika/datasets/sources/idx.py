"""IDX files, the form of MNIST and its kin: images as bytes (N, H, W) or (N, H, W, C), labels (N,); gzip or not.

All pairs `<name>images-idx3-ubyte` and `<name>labels-idx1-ubyte` of a folder become one set, which is split anew
unless `splits` is `given`. Each file may lie in a folder of its own name, as one well-known archive has them.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from troika.datasets.contract import SPLITS, Images, Labels, Origin, SplitName
from troika.datasets.sources.layout import kept_first, split_of, told_given
from troika.datasets.sources.settings import SourceParams
from troika.datasets.sources.source import ImageSource, block_images, examined, sayable
from troika.datasets.sources.tree import Tree
from troika.errors import DatasetError, ParameterError

_IMAGES = re.compile(r"(?P<part>.*?)images(?P<mark>[.-])idx[34]-ubyte(\.gz)?")
_PARTS = re.compile(r"(train|t10k|test|validation|valid|val)[-_.]?$")
_DEEPEST = 50
_MOST_FOLDERS = 4
"""Where there are more beside one another, they are class folders."""
_GZIP_RATIO = 1040
"""Deflate cannot make a file smaller by more than 1,032 times."""


@dataclass(frozen=True)
class _Pair:
    images: Path
    labels: Labels
    shape: tuple[int, ...]
    """(N, H, W) or (N, H, W, C)."""


def find_idx(folder: Path) -> Path | None:
    """Return the folder that IDX images lie in: this one, or the only one below it that does; None: there is none.

    Raises:
        DatasetError: several folders hold IDX images, and it cannot be told which are meant.
    """
    found = _folders_with_idx(Tree(folder, follow_outside=True), "")
    if len(found) > 1:
        raise DatasetError(
            f"{folder} holds IDX files in several folders: {sayable(', '.join(found))}; give the path of one, "
            "or put the files of one set into one folder"
        )
    return folder / found[0] if found else None


def _folders_with_idx(tree: Tree, at: str) -> list[str]:
    """Return those that hold IDX images, below folders that hold no other files and only a few folders."""
    before = len(tree.left_out)
    folders, files = tree.look(at)
    names = (*folders, *(file.name for file in files), *tree.left_out[before:])
    if any(_IMAGES.fullmatch(name.rsplit("/", 1)[-1]) for name in names):
        return [at]
    if files or len(folders) > _MOST_FOLDERS or at.count("/") >= _DEEPEST:
        return []
    return [name for folder in folders for name in _folders_with_idx(tree, folder)]


def labels_beside(images: str) -> list[str]:
    """Return what the labels of a file of images may be called; empty: it is no such file by its name."""
    match = _IMAGES.fullmatch(images)
    if match is None:
        return []
    return [
        f"{match['part']}labels{mark}idx1-ubyte{end}" for mark in (match["mark"], "-", ".") for end in ("", ".gz")
    ]


def open_idx(params: SourceParams) -> ImageSource:
    """Open a folder of IDX files, or one file of images.

    Raises:
        ParameterError: no path is given.
        DatasetError: files are missing, damaged, or do not fit together.
    """
    if not params.path:
        raise ParameterError("path: source idx needs a folder with IDX files, or the path of one file of images")
    path = Path(params.path)
    pairs = [_open_pair(file) for file in _image_files(path)]
    if params.splits == "classes":
        raise ParameterError("splits: classes is for folders of images; set splits to hashed, given or auto")
    splits = [_split_of(pair.images) for pair in pairs]
    given, remarks = None, tuple[str, ...]()
    if params.splits == "given":
        order = sorted(range(len(pairs)), key=lambda index: kept_first(splits[index] or "train"))
        pairs, splits = [pairs[index] for index in order], [splits[index] for index in order]
        given, remarks = _given(path, pairs, splits)
    elif len(pairs) > 1:
        names = ", ".join(pair.images.name for pair in pairs)
        remarks = (f"splits: hashed; {names} are one set, and split anew",)
    shapes = {pair.shape[1:] for pair in pairs}
    if len(shapes) > 1:
        raise DatasetError(f"{path}: images of different sizes: {sorted(shapes)}; give a folder with one set")
    height, width, channels = (*shapes.pop(), 1)[:3]
    if params.transpose:
        height, width = width, height
    if channels not in (1, 3) or not height * width:
        raise DatasetError(f"{path}: images have shape {(height, width, channels)}; expected (H, W) or (H, W, 3)")
    count = sum(len(pair.labels) for pair in pairs)
    if not count:
        raise DatasetError(f"{path} holds no image")
    largest = max(int(pair.labels.max()) for pair in pairs if len(pair.labels))

    def pieces() -> Iterator[tuple[Images, Labels]]:
        for pair in pairs:
            yield from _read(pair, (height, width, channels), params.transpose)

    return ImageSource(
        origin=Origin(kind="idx", path=path.name),
        description=f"idx {path.name}{', transposed' if params.transpose else ''}"
        + (", its own splits" if given is not None else ""),
        classes=tuple(str(number) for number in range(largest + 1)),
        count=count,
        shape=(height, width, channels),
        blocks=lambda _: examined(pieces()),
        given=given,
        remarks=(*_told_depth(path, pairs[0].images), *remarks),
    )


def _told_depth(path: Path, images: Path) -> list[str]:
    if images.parent in (path, path.parent):
        return []
    return [f"IDX files are those in {sayable(str(images.parent.relative_to(path)))}"]


def _split_of(images: Path) -> SplitName | None:
    found = _PARTS.search(_part(images.name))
    return None if found is None else split_of({"t10k": "test"}.get(found[1], found[1]))


def _given(
    path: Path, pairs: list[_Pair], splits: list[SplitName | None]
) -> tuple[NDArray[np.int8], tuple[str, ...]]:
    """Position in SPLITS of each image, and what is to be said of it."""
    kinds = {split for split in splits if split}
    if None in splits or "train" not in kinds or len(kinds) < 2:
        raise DatasetError(
            f"splits: {path} must hold train, and test (t10k) or validation, and holds "
            f"{', '.join(pair.images.name for pair in pairs)}; set splits to hashed"
        )
    numbers = [SPLITS.index(split) for split in splits if split]
    given = np.repeat(np.array(numbers, np.int8), [len(pair.labels) for pair in pairs])
    return given, (told_given(", ".join(pair.images.name for pair in pairs), kinds),)


def _image_files(path: Path) -> list[Path]:
    if not path.exists():
        raise DatasetError(f"{path} does not exist; path must name a folder with IDX files, or one of images")
    if path.is_file():
        return [path]
    below = find_idx(path)
    # A set that lies there both packed and unpacked, or in folders too, is one set.
    found: dict[str, Path] = {}
    for file in sorted(_candidates(below or path), key=lambda file: (file.suffix == ".gz", file.parent != below)):
        found.setdefault(_part(file.name), file)
    names = sorted(file.name for file in found.values())
    if not names:
        raise DatasetError(f"{path} holds no file such as train-images-idx3-ubyte or train-images-idx3-ubyte.gz")
    sets = {_PARTS.sub("", _part(name)) for name in names}
    if len(sets) > 1:
        raise DatasetError(f"{path} holds several sets: {', '.join(sorted(sets))}; give a folder with one of them")
    return [found[_part(name)] for name in names]


def _candidates(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if not _IMAGES.fullmatch(path.name):
            continue
        if path.is_dir():
            yield from (file for file in path.iterdir() if _IMAGES.fullmatch(file.name) and file.is_file())
        else:
            yield path


def _part(name: str) -> str:
    match = _IMAGES.fullmatch(name)
    return match["part"] if match else name


def _open_pair(path: Path) -> _Pair:
    names = labels_beside(path.name)
    if not names:
        raise DatasetError(f"{path} is no file of images: one is called such as train-images-idx3-ubyte(.gz)")
    labels_path = next((file for name in names for file in _places(path, name) if file.is_file()), None)
    if labels_path is None:
        raise DatasetError(f"{path} has no labels beside it; there must be {names[0]} or {names[1]}")
    shape, labels_shape = _sizes(path, (3, 4)), _sizes(labels_path, (1,))
    if shape[0] != labels_shape[0]:
        raise DatasetError(
            f"{path} holds {shape[0]} images but {labels_path.name} {labels_shape[0]} labels; give one per image"
        )
    with _open(labels_path) as file:
        file.read(8)
        labels = np.frombuffer(_take(file, labels_shape[0], labels_path), np.uint8).astype(np.int64)
        _expect_end(file, labels_path)
    return _Pair(path, labels, shape)


def _places(images: Path, labels: str) -> Iterator[Path]:
    """Where labels may lie: beside the images, or in a folder of their own, the images' own or beside that."""
    plain = labels.removesuffix(".gz")
    yield images.parent / labels
    for folder in (images.parent, images.parent.parent):
        yield from (folder / plain / labels, folder / labels / labels)
    if _IMAGES.fullmatch(images.parent.name):
        yield images.parent.parent / labels


def _sizes(path: Path, axes: tuple[int, ...]) -> tuple[int, ...]:
    """What the header promises, if the file can hold it."""
    with _open(path) as file:
        head = _take(file, 4, path)
        if head[:2] != b"\0\0" or head[2] != 8:
            raise DatasetError(f"{path} is not an IDX file of bytes: it begins with {head.hex(' ')}, not 00 00 08")
        if head[3] not in axes:
            raise DatasetError(f"{path} has {head[3]} axes; expected {' or '.join(map(str, axes))}")
        sizes = tuple(int(size) for size in np.frombuffer(_take(file, 4 * head[3], path), ">u4"))
    promised = int(np.prod([float(size) for size in sizes]))
    room = path.stat().st_size * (_GZIP_RATIO if _is_packed(path) else 1)
    if promised > room:
        raise DatasetError(f"{path} promises {sizes}, more than a file of {path.stat().st_size} bytes can hold")
    return sizes


def _read(pair: _Pair, shape: tuple[int, int, int], transpose: bool) -> Iterator[tuple[Images, Labels]]:
    height, width, channels = shape
    size, step = int(np.prod(shape)), block_images(shape)
    with _open(pair.images) as file:
        file.read(4 + 4 * len(pair.shape))
        for start in range(0, len(pair.labels), step):
            labels = pair.labels[start : start + step]
            data = _take(file, size * len(labels), pair.images)
            images = np.frombuffer(data, np.uint8)
            if transpose:
                yield np.ascontiguousarray(images.reshape(-1, width, height, channels).swapaxes(1, 2)), labels
            else:
                yield images.reshape(-1, *shape), labels
        _expect_end(file, pair.images)


def _open(path: Path) -> BinaryIO:
    """Open a file for reading; whether it is packed its first bytes say, for browsers unpack and keep the name."""
    return gzip.open(path) if _is_packed(path) else path.open("rb")  # type: ignore[return-value]


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _take(file: BinaryIO, count: int, path: Path) -> bytes:
    try:
        data = file.read(count)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} is damaged: {error}") from None
    if len(data) < count:
        raise DatasetError(f"{path} ends too early: its header promises more")
    return data


def _expect_end(file: BinaryIO, path: Path) -> None:
    try:
        more = file.read(1)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} is damaged: {error}") from None
    if more:
        raise DatasetError(f"{path} goes on after what its header promises")
