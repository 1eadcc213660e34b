"""Where images come from. A new source is one file here and one line in `SOURCES`."""

from collections.abc import Callable
from pathlib import Path

from troika.datasets.sources.digits import open_digits
from troika.datasets.sources.folder import open_folder
from troika.datasets.sources.idx import holds_idx, open_idx
from troika.datasets.sources.npz import open_npz
from troika.datasets.sources.settings import SourceParams
from troika.datasets.sources.source import ImageSource
from troika.errors import DatasetError, ParameterError

SOURCES: dict[str, Callable[[SourceParams], ImageSource]] = {
    "digits": open_digits,
    "folder": open_folder,
    "idx": open_idx,
    "npz": open_npz,
}


def open_source(params: SourceParams) -> ImageSource:
    """Open a source in the file system by its name, or by what lies at its path (`auto`).

    Raises:
        ParameterError: there is no such source, or it wants (no) path.
        DatasetError: the files do not hold what they should.
    """
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
        raise ParameterError("path: source auto needs the path of a file or folder; or set source to digits")
    path = Path(text)
    if path.is_dir():
        return "idx" if holds_idx(path) else "folder"
    if not path.exists():
        raise DatasetError(f"{path} does not exist; path must name a folder, a .npz file or an IDX file")
    return "npz" if path.suffix == ".npz" else "idx"
