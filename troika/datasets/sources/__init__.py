"""Where images come from. A new source is one file here and one line in `SOURCES`."""

from collections.abc import Callable
from pathlib import Path

from troika.datasets.sources.digits import open_digits
from troika.datasets.sources.folder import open_folder
from troika.datasets.sources.idx import find_idx, open_idx
from troika.datasets.sources.mnist5k import open_mnist5k
from troika.datasets.sources.npz import open_npz
from troika.datasets.sources.settings import SourceParams
from troika.datasets.sources.source import ImageSource, check_path
from troika.errors import DatasetError, ParameterError

SOURCES: dict[str, Callable[[SourceParams], ImageSource]] = {
    "digits": open_digits,
    "folder": open_folder,
    "idx": open_idx,
    "mnist5k": open_mnist5k,
    "npz": open_npz,
}


BUILT_IN = ("digits", "mnist5k")
"""Sources that come with a package, and have no path."""


def open_source(params: SourceParams) -> ImageSource:
    """Open a source in the file system by its name, or by what lies at its path (`auto`).

    Raises:
        ParameterError: there is no such source, or it wants (no) path.
        DatasetError: the files do not hold what they should.
    """
    if params.path:
        check_path("path", params.path)
    name = params.source
    if name == "auto":
        name = _kind_at(params.path)
    if name not in SOURCES:
        raise ParameterError(f"source: there is no {name!r}; available: auto, {', '.join(SOURCES)}")
    if params.transpose and name != "idx":
        raise ParameterError(f"transpose: is for IDX files, and {params.path or name} is not; set it to false")
    if params.splits in ("given", "classes") and name not in ("folder", "idx"):
        raise ParameterError(
            f"splits: {params.path or name} holds no splits of its own; set splits to hashed or auto"
        )
    return SOURCES[name](params)


def _kind_at(text: str) -> str:
    if not text:
        raise ParameterError(
            f"path: source auto needs the path of a file or folder; or set source to {' or '.join(BUILT_IN)}"
        )
    path = Path(text)
    if path.is_dir():
        return "idx" if find_idx(path) else "folder"
    if not path.exists():
        raise DatasetError(
            f"{path} does not exist; path must name a folder, a .npz file or an IDX file "
            f"(built-in sets, which have no path: {', '.join(BUILT_IN)})"
        )
    if path.suffix.casefold() == ".npz":
        return "npz"
    if not path.is_file():
        raise DatasetError(
            f"{path} is neither a file nor a folder; path must name a folder, a .npz or an IDX file"
        )
    if what := _what(path):
        raise DatasetError(f"{path} is {what}; path must name a folder of images, a .npz file or an IDX file")
    return "idx"


_ARCHIVE = "an archive, which is not unpacked here: unpack it and give the folder"
_ARRAY_FILE = "an array file of a kind that is not read: save its images and labels as .npz"
_RECORDS = "a file of records: write its images as files, a folder for each class"
_WORDS = {
    _ARCHIVE: ".zip .tgz .tbz2 .txz .7z .rar",
    "a single array: save images and labels together, np.savez('set.npz', images=..., labels=...)": ".npy",
    "a table: write its images as files, a folder for each class, or as .npz": ".parquet .csv .tsv .xlsx",
    _ARRAY_FILE: ".h5 .hdf5 .mat .pkl .pickle .pt .pth .safetensors .joblib",
    _RECORDS: ".tfrecord .tfrecords .record .rec .mdb .arrow .feather .avro .json .jsonl",
    "a single image": ".png .jpg .jpeg .webp .gif .bmp .tif .tiff .heic .svg",
    "a video: write its pictures as files": ".mp4 .mov .avi .mkv .webm",
}


def _what(path: Path) -> str:
    """Say what a file is by its name, and how its images could be read; empty: unknown."""
    suffixes = [suffix.casefold() for suffix in path.suffixes]
    if ".tar" in suffixes:
        return _ARCHIVE
    return next((words for words, known in _WORDS.items() if suffixes and suffixes[-1] in known.split()), "")
