"""Where images come from: each source turns files (or a built-in set) into raw arrays.

A new source is one function and one line in `SOURCES`. Does not judge single images; checks.py does.
"""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from troika.datasets.contract import Images, Labels
from troika.errors import DatasetError, ParameterError


@dataclass(frozen=True)
class RawImages:
    """Images uint8 (N, H, W, C), labels int64 (N,), class names, and where they came from in words."""

    images: Images
    labels: Labels
    classes: tuple[str, ...]
    description: str


def digits(path: Path | None) -> RawImages:
    """The 1,797 handwritten digits, 8 x 8, that scikit-learn ships (UCI optical recognition, test part)."""
    if path is not None:
        raise ParameterError("path: the built-in digits are read from no file; leave path empty")
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow to import

    bunch = load_digits()
    # 17 grey levels, 0..16, spread over 0..255.
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    return RawImages(
        images=images,
        labels=bunch.target.astype(np.int64),
        classes=tuple(str(name) for name in bunch.target_names),
        description="scikit-learn load_digits",
    )


def npz(path: Path | None) -> RawImages:
    """A `.npz` file with `images` uint8 (N, H, W) or (N, H, W, C) and `labels` integer (N,).

    Labels are 0..K-1; an optional string array `classes` (K,) names them.
    """
    if path is None:
        raise ParameterError("path: source npz needs the path of a .npz file")
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist; path must name a .npz file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path} is not a readable .npz file: {error}") from None
    for key in ("images", "labels"):
        if key not in arrays:
            raise DatasetError(f"{path} has no array {key!r}; it holds {sorted(arrays) or 'nothing'}")
    images, labels = arrays["images"], arrays["labels"]
    if images.dtype != np.uint8:
        raise DatasetError(f"{path}: images must be uint8 in 0..255, not {images.dtype}")
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DatasetError(f"{path}: labels must be integers of shape (N,), not {labels.dtype} {labels.shape}")
    if len(labels) == 0:
        raise DatasetError(f"{path} holds no image")
    largest = int(labels.max())
    if "classes" not in arrays and largest >= len(labels):
        raise DatasetError(
            f"{path}: label {largest} of image {labels.argmax()} is out of range; "
            "labels count from 0, and each class has an image"
        )
    names = arrays.get("classes", np.arange(max(largest + 1, 1)).astype(str))
    if names.ndim != 1:
        raise DatasetError(f"{path}: classes must be names of shape (K,), not {names.shape}")
    classes = tuple(str(name) for name in names)
    return RawImages(images, labels.astype(np.int64), classes, description=f"npz {path.name}")


SOURCES: dict[str, Callable[[Path | None], RawImages]] = {"digits": digits, "npz": npz}


def read_source(source: str, path: Path | None) -> RawImages:
    """Read a source by name.

    Raises:
        ParameterError: there is no such source, or it wants (no) path.
        DatasetError: the files do not hold what they should.
    """
    if source not in SOURCES:
        raise ParameterError(f"source: there is no {source!r}; available: {', '.join(SOURCES)}")
    raw = SOURCES[source](path)
    check_arrays(raw)
    return raw


def check_arrays(raw: RawImages) -> None:
    """Raise DatasetError unless the arrays as a whole fit together; single images are not looked at."""
    images, labels = raw.images, raw.labels
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise DatasetError(f"images have shape {images.shape}; expected (N, H, W), (N, H, W, 1) or (N, H, W, 3)")
    if images.size == 0:
        raise DatasetError(f"{raw.description} holds no image: images have shape {images.shape}")
    if len(images) != len(labels):
        raise DatasetError(f"{len(images)} images but {len(labels)} labels; give one label per image")
    if len(set(raw.classes)) != len(raw.classes):
        raise DatasetError(f"class names repeat: {', '.join(raw.classes)}")
    wrong = np.flatnonzero((labels < 0) | (labels >= len(raw.classes)))
    if len(wrong):
        raise DatasetError(
            f"label {labels[wrong[0]]} of image {wrong[0]} is out of range; "
            f"{len(raw.classes)} classes allow 0..{len(raw.classes) - 1}"
        )
