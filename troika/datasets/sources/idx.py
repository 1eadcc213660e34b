"""IDX files, the form of MNIST and its kin: images as bytes (N, H, W) or (N, H, W, C), labels (N,); gzip or not.

All pairs `<name>images-idx3-ubyte` and `<name>labels-idx1-ubyte` of a folder become one set, which is split anew:
the parts that a set comes in (train, t10k) are not kept apart.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from troika.datasets.contract import Images, Labels, Origin
from troika.datasets.sources.settings import SourceParams
from troika.datasets.sources.source import ImageSource, block_images, examined
from troika.errors import DatasetError, ParameterError

_IMAGES = re.compile(r"(?P<part>.*?)images(?P<mark>[.-])idx[34]-ubyte(\.gz)?")
_PARTS = re.compile(r"(train|t10k|test|valid|validation)[-_.]?$")
_GZIP_RATIO = 1040
"""Deflate cannot make a file smaller by more than 1,032 times."""


@dataclass(frozen=True)
class _Pair:
    images: Path
    labels: Labels
    shape: tuple[int, ...]
    """(N, H, W) or (N, H, W, C)."""


def holds_idx(folder: Path) -> bool:
    """Whether a folder has IDX images in it."""
    return any(_IMAGES.fullmatch(path.name) for path in folder.iterdir())


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
    shapes = {pair.shape[1:] for pair in pairs}
    if len(shapes) > 1:
        raise DatasetError(f"{path}: images of different sizes: {sorted(shapes)}; give a folder with one set")
    height, width, channels = (*shapes.pop(), 1)[:3]
    if channels not in (1, 3) or not height * width:
        raise DatasetError(f"{path}: images have shape {(height, width, channels)}; expected (H, W) or (H, W, 3)")
    count = sum(len(pair.labels) for pair in pairs)
    if not count:
        raise DatasetError(f"{path} holds no image")
    largest = max(int(pair.labels.max()) for pair in pairs if len(pair.labels))

    def pieces() -> Iterator[tuple[Images, Labels]]:
        for pair in pairs:
            yield from _read(pair, (height, width, channels))

    return ImageSource(
        origin=Origin(kind="idx", path=path.name),
        description=f"idx {path.name}",
        classes=tuple(str(number) for number in range(largest + 1)),
        count=count,
        shape=(height, width, channels),
        blocks=lambda _: examined(pieces()),
    )


def _image_files(path: Path) -> list[Path]:
    if not path.exists():
        raise DatasetError(f"{path} does not exist; path must name a folder with IDX files, or one of images")
    if path.is_file():
        return [path]
    found = {file.name: file for file in path.iterdir() if _IMAGES.fullmatch(file.name)}
    # A set that lies there both packed and unpacked is one set.
    names = sorted(name for name in found if not (name.endswith(".gz") and name.removesuffix(".gz") in found))
    if not names:
        raise DatasetError(f"{path} holds no file such as train-images-idx3-ubyte or train-images-idx3-ubyte.gz")
    sets = {_PARTS.sub("", _part(name)) for name in names}
    if len(sets) > 1:
        raise DatasetError(f"{path} holds several sets: {', '.join(sorted(sets))}; give a folder with one of them")
    return [found[name] for name in names]


def _part(name: str) -> str:
    match = _IMAGES.fullmatch(name)
    return match["part"] if match else name


def _open_pair(path: Path) -> _Pair:
    match = _IMAGES.fullmatch(path.name)
    if match is None:
        raise DatasetError(f"{path}: an IDX file of images is called such as train-images-idx3-ubyte(.gz)")
    plain = f"{match['part']}labels{match['mark']}idx1-ubyte"
    labels_path = next((path.parent / n for n in (plain, f"{plain}.gz") if (path.parent / n).exists()), None)
    if labels_path is None:
        raise DatasetError(f"{path} has no labels beside it; there must be {plain} or {plain}.gz")
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
    room = path.stat().st_size * (_GZIP_RATIO if path.suffix == ".gz" else 1)
    if promised > room:
        raise DatasetError(f"{path} promises {sizes}, more than a file of {path.stat().st_size} bytes can hold")
    return sizes


def _read(pair: _Pair, shape: tuple[int, int, int]) -> Iterator[tuple[Images, Labels]]:
    size, step = int(np.prod(shape)), block_images(shape)
    with _open(pair.images) as file:
        file.read(4 + 4 * len(pair.shape))
        for start in range(0, len(pair.labels), step):
            labels = pair.labels[start : start + step]
            data = _take(file, size * len(labels), pair.images)
            yield np.frombuffer(data, np.uint8).reshape(-1, *shape), labels
        _expect_end(file, pair.images)


def _open(path: Path) -> BinaryIO:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


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
