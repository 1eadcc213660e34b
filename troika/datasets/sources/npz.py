"""A `.npz` file with `images` uint8 (N, H, W) or (N, H, W, C) and `labels` integer (N,).

Labels are 0..K-1; an optional string array `classes` (K,) names them. Members are read as streams, and nothing in
the archive is ever written to disk.
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from troika.datasets.contract import Images, Labels, Origin
from troika.datasets.sources.settings import SourceParams
from troika.datasets.sources.source import ImageSource, block_images, examined, sayable
from troika.errors import DatasetError, ParameterError

_UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
_TYPES = {"images": "np.uint8", "labels": "np.int64", "classes": "str"}
_MOST_NAMES_BYTES = 16 * 2**20
_BOMB_RATIO, _BOMB_BYTES = 200, 2**30


def open_npz(params: SourceParams) -> ImageSource:
    """Open an archive of arrays.

    Raises:
        ParameterError: no path is given.
        DatasetError: it is no archive, is made to harm, or its arrays do not fit together.
    """
    if not params.path:
        raise ParameterError("path: source npz needs the path of a .npz file")
    path = Path(params.path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path)
            labels, classes = _labels_and_classes(archive, members, path)
            with _header(archive, members, "images", path) as (_, shape, dtype):
                pass
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist; path must name a .npz file") from None
    except _UNREADABLE as error:
        raise DatasetError(f"{path} is not a readable .npz file: {error}") from None
    image_shape = _image_shape(path, shape, dtype)
    if len(labels) == 0 or int(np.prod(shape)) == 0:
        raise DatasetError(f"{path} holds no image: images have shape {shape}")
    if shape[0] != len(labels):
        raise DatasetError(f"{path}: {shape[0]} images but {len(labels)} labels; give one label per image")
    _check_labels(path, labels, classes)

    def pieces() -> Iterator[tuple[Images, Labels]]:
        try:
            with zipfile.ZipFile(path) as archive, _header(archive, members, "images", path) as (file, *_):
                yield from _read(file, labels, image_shape)
        except _UNREADABLE as error:
            raise DatasetError(f"{path} is not a readable .npz file: {error}") from None

    return ImageSource(
        origin=Origin(kind="npz", path=path.name),
        description=f"npz {path.name}",
        classes=classes,
        count=len(labels),
        shape=image_shape,
        blocks=lambda _: examined(pieces()),
    )


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """Array name -> member, after a look at what the archive could do to us."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename
        if "/" in name or "\\" in name or name.startswith("."):
            raise DatasetError(
                f"{path} is refused: its member {name!r} names a path; a .npz file holds plain names"
            )
        if name in members:
            raise DatasetError(f"{path} is refused: its member {name!r} is there twice")
        if info.file_size > _BOMB_BYTES and info.file_size > _BOMB_RATIO * max(info.compress_size, 1):
            raise DatasetError(
                f"{path} is refused as a decompression bomb: {name!r} grows from {info.compress_size:,} to "
                f"{info.file_size:,} bytes"
            )
        members[name] = info
    members = {name.removesuffix(".npy"): info for name, info in members.items()}
    for key in ("images", "labels"):
        if key not in members:
            raise DatasetError(
                f"{path} has no array {key!r}; it holds {sorted(members) or 'nothing'}; "
                "save it as np.savez(path, images=..., labels=...)"
            )
    return members


@contextmanager
def _header(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str, path: Path
) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype[Any]]]:
    """Open a member and read its header: (file, which stands behind it, shape, dtype)."""
    info = members[name]
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            raise ValueError(f"array {name!r} has format version {version}")
        shape, fortran, dtype = read[version](file)  # type: ignore[no-untyped-call]
        if dtype.hasobject:
            raise DatasetError(
                f"{path} is refused: array {name!r} holds Python objects, which could run code; "
                f"save it with dtype={_TYPES.get(name)}"
            )
        promised = int(np.prod([float(size) for size in shape])) * dtype.itemsize
        if promised > info.file_size:
            raise ValueError(f"array {name!r} promises {shape}, more than its {info.file_size} bytes")
        if fortran and len(shape) > 1:
            raise ValueError(f"array {name!r} is in Fortran order; save np.ascontiguousarray of it")
        yield file, shape, dtype


def _labels_and_classes(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], path: Path
) -> tuple[Labels, tuple[str, ...]]:
    with _header(archive, members, "labels", path) as (file, shape, dtype):
        if len(shape) != 1 or not np.issubdtype(dtype, np.integer):
            raise DatasetError(f"{path}: labels must be integers of shape (N,), not {dtype} {shape}")
        given = np.frombuffer(_exactly(file, shape[0] * dtype.itemsize), dtype)
    largest = int(given.max()) if len(given) else 0
    if largest >= 2**63:
        raise DatasetError(f"{path}: label {largest} of image {given.argmax()} is out of range")
    labels = given.astype(np.int64)
    if "classes" not in members:
        if largest >= max(len(labels), 1):
            raise DatasetError(
                f"{path}: label {largest} of image {labels.argmax()} is out of range; "
                "labels count from 0, and each class has an image"
            )
        return labels, tuple(str(number) for number in range(max(largest + 1, 1)))
    with _header(archive, members, "classes", path) as (file, shape, dtype):
        size = int(np.prod(shape)) * dtype.itemsize
        if len(shape) != 1 or size > _MOST_NAMES_BYTES:
            raise DatasetError(f"{path}: classes must be names of shape (K,), not {shape}")
        names = np.frombuffer(_exactly(file, size), dtype) if size else np.empty(0, "U1")
    return labels, tuple(_name(name) for name in names)


def _name(name: Any) -> str:
    """Return a class's name; bytes are UTF-8."""
    return sayable(name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name))


def _image_shape(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, int, int]:
    if dtype != np.uint8:
        hint = "; images of 0..1 become so by (images * 255).round().astype(np.uint8)" if dtype.kind == "f" else ""
        raise DatasetError(f"{path}: images must be uint8 in 0..255, not {dtype}{hint}")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise DatasetError(f"{path}: images have shape {shape}; expected (N, H, W), (N, H, W, 1) or (N, H, W, 3)")
    return shape[1], shape[2], shape[3] if len(shape) == 4 else 1


def _check_labels(path: Path, labels: Labels, classes: tuple[str, ...]) -> None:
    if len(set(classes)) != len(classes):
        raise DatasetError(f"{path}: class names repeat: {', '.join(classes)}")
    wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(wrong):
        raise DatasetError(
            f"{path}: label {labels[wrong[0]]} of image {wrong[0]} is out of range; "
            f"{len(classes)} classes allow 0..{len(classes) - 1}"
        )


def _read(file: IO[bytes], labels: Labels, shape: tuple[int, int, int]) -> Iterator[tuple[Images, Labels]]:
    size, step = int(np.prod(shape)), block_images(shape)
    for start in range(0, len(labels), step):
        some = labels[start : start + step]
        yield np.frombuffer(_exactly(file, size * len(some)), np.uint8).reshape(-1, *shape), some
    if file.read(1):  # also makes zipfile compare the checksum
        raise ValueError("its array 'images' goes on after what the header promises")


def _exactly(file: IO[bytes], count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError("it ends too early")
    return data
