"""One walk over a folder: what may be an image, what is none by its name, and where links lead.

`prepare_data` and the hash by which `troika run` sees changed files use the same walk. Reads names, and only where
a name says nothing the first bytes.
"""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from mimetypes import MimeTypes
from pathlib import Path
from typing import NamedTuple

from troika.datasets.formats import HEAD, find_format
from troika.errors import DatasetError

_TYPES = MimeTypes()  # Python's own table, whatever this machine's files say
_NO_IMAGES = re.compile(
    r"\.(7z|aae|arff|arrow|avro|bak|cfg|conf|crdownload|csv|db|docx|dvc|feather|gz|h5|hdf5|ini|ipynb|joblib|jsonl"
    r"|lnk|lock|log|mat|md|mdb|md5|ndjson|npy|npz|onnx|orc|parquet|part|pickle|pkl|pptx|pt|pth|rar|record|rst|rtf"
    r"|safetensors|sha1|sha256|sha512|sqlite|srt|tex|tfrecords?|thm|tmp|toml|tsv|txt|url|vtt|webloc|xlsx|xmp|xz|ya?ml"
    r"|yml|zst)"
)
_NO_IMAGE_NAMES = re.compile(
    r"authors|changelog|citation|checksums|contributing|copying|credits|dockerfile|icon\r|licen[cs]e|makefile"
    r"|manifest|md5sums|notice|readme|sha1sums|sha256sums|thumbs\.db.*|version",
    re.DOTALL,
)
_OTHER_IMAGES = re.compile(
    r"\.(apng|arw|avif|bmp|cr[23]|dcm|dds|dib|dng|exr|gif|hdr|hei[cf]s?|ico|j2k|jfif|jif|jp2|jpe|jpe?g|jpf|jpm|jps"
    r"|jpx|jxl|mpo|nef|orf|p[bgnp]m|pam|pcx|pfm|pjpeg|png|psd|qoi|raf|ras|raw|rw2|sgi|svg|tga|tiff?|webp|x[bpc][fm])"
)
"""Suffixes of images, of those too that are not read: such a file is refused by name, whatever it holds."""
_NO_IMAGE_FOLDERS = {
    "#recycle",
    "@recycle",
    "recycler",
    "__macosx",
    "__pycache__",
    "@eadir",
    "$recycle.bin",
    "lost+found",
    "system volume information",
}
_MOST_GROUPS = 8


class Note(NamedTuple):
    """What is to be known of a file, or of a link to a folder that stands for it."""

    problem: str
    detail: str
    followed: bool
    """False: there is nothing to read."""


class Found(NamedTuple):
    """A file, or a link to a folder that is not followed."""

    name: str
    """From the root on, with `/`."""
    note: Note | None


_OUTSIDE_FILE = Note("outside_link", "a link to a file outside the folder", followed=True)
_BEHIND_LINK = Note("outside_link", "in a folder outside that a link leads to", followed=True)
_OUTSIDE_FOLDER = Note(
    "outside_link",
    "a link to a folder outside; set policies.outside_link to warn to follow it",
    followed=False,
)


class Tree:
    """A folder and all below it; links within it are followed, those that lead out of it only where asked for."""

    def __init__(self, root: Path, *, follow_outside: bool) -> None:
        self.root = root
        self._real = os.path.realpath(root)
        self._follow = follow_outside
        self._left_out: dict[str, None] = {}

    @property
    def left_out(self) -> list[str]:
        """Names of what has been met and is no image by its name; a folder's ends with `/`."""
        return list(self._left_out)

    def look(self, folder: str = "") -> tuple[list[str], list[Found]]:
        """Return the sub-folders of one folder, in natural order, and its files.

        Raises:
            DatasetError: it may not be read.
        """
        return self._look(folder, self._is_outside(folder))

    def below(self, folder: str) -> Iterator[Found]:
        """All files of a folder and below it; each real folder is read once, so links cannot lead in a circle."""
        parts = folder.split("/") if folder else []
        above = ["/".join(parts[:depth]) for depth in range(len(parts))]
        read = {self._identity(name): name or "the whole folder" for name in above}
        folders, links = [folder], list[str]()
        while folders or links:
            # Links come last: what lies here itself is known by its own name.
            inside = folders.pop() if folders else links.pop()
            identity = self._identity(inside)
            if earlier := read.get(identity):
                detail = f"leads in a circle, or to {earlier}, which is read already"
                yield Found(inside, Note("unreadable", detail, followed=False))
                continue
            read[identity] = inside or "the whole folder"
            below, files = self._look(inside, self._is_outside(inside))
            for name in reversed(below):
                (links if os.path.islink(self.root / name) else folders).append(name)  # noqa: PTH114
            yield from files

    def _look(self, folder: str, outside: bool) -> tuple[list[str], list[Found]]:
        folders: list[str] = []
        files: list[Found] = []
        for entry in self._entries(folder):
            name = f"{folder}/{entry.name}" if folder else entry.name
            link, is_folder = entry.is_symlink(), _is_folder(entry)
            if entry.name.startswith(".") or is_no_image(entry.name, is_folder):
                self._left_out[f"{name}/" if is_folder else name] = None
            elif not is_folder and is_of_unknown_kind(entry.name) and not _begins_as_image(entry.path):
                self._left_out[name] = None
            elif is_folder and (not link or self._follow or not self._is_outside(name)):
                folders.append(name)
            elif is_folder:
                files.append(Found(name, _OUTSIDE_FOLDER))
            elif link:
                files.append(Found(name, _OUTSIDE_FILE if self._is_outside(name) else None))
            else:
                files.append(Found(name, _BEHIND_LINK if outside else None))
        if folders and files:
            # What has no suffix may be a note about the folders, such as `_SUCCESS`.
            files = [file for file in files if not self._leave_out_note(file)]
        return sorted(folders, key=natural), sorted(files)

    def _leave_out_note(self, file: Found) -> bool:
        base = file.name.rsplit("/", 1)[-1]
        if "." in base or _begins_as_image(os.path.join(self.root, file.name)):  # noqa: PTH118
            return False
        self._left_out[file.name] = None
        return True

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        path = self.root / folder
        try:
            with os.scandir(path) as entries:
                return list(entries)
        except PermissionError:
            raise DatasetError(f"{path} may not be read; allow it, or move it elsewhere") from None
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error.strerror}") from None

    def _identity(self, name: str) -> tuple[int, int]:
        about = os.stat(self.root / name)  # noqa: PTH116
        return about.st_dev, about.st_ino

    def _is_outside(self, name: str) -> bool:
        """Whether a file or folder really lies elsewhere."""
        # Not Path.resolve, which fails where links lead in a circle.
        real = os.path.realpath(self.root / name)
        return real != self._real and not real.startswith(self._real.rstrip("/") + "/")


def natural(name: str) -> tuple[list[str | int], str]:
    """Return a key that sorts 2 before 10; names that differ in leading zeros alone by their text."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], name


def is_no_image(name: str, is_folder: bool) -> bool:
    """Whether a file or folder is none of images, by its name alone; a name that says nothing may be one."""
    folded = name.casefold()
    if is_folder:
        return folded in _NO_IMAGE_FOLDERS
    suffix = os.path.splitext(folded)[1]  # noqa: PTH122
    return _is_of_no_image(suffix) or _NO_IMAGE_NAMES.fullmatch(folded) is not None


def is_of_unknown_kind(name: str) -> bool:
    """Whether a name has a suffix that says neither an image nor anything else: `photo.jpg_large`, `set.names`."""
    suffix = os.path.splitext(name.casefold())[1]  # noqa: PTH122
    if not suffix or _OTHER_IMAGES.fullmatch(suffix) or _is_of_no_image(suffix):
        return False
    return not (_TYPES.guess_type(f"x{suffix}")[0] or "").startswith("image/")


def _begins_as_image(path: str) -> bool:
    """Whether a file begins as one that is read; True for what cannot be opened, of which decoding tells."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return True
        with open(path, "rb") as file:  # noqa: PTH123
            return find_format(file.read(HEAD)) is not None
    except OSError:
        return True


@lru_cache
def _is_of_no_image(suffix: str) -> bool:
    if _NO_IMAGES.fullmatch(suffix):
        return True
    kind, packed = _TYPES.guess_type(f"x{suffix}")
    return packed is not None or (kind is not None and not kind.startswith("image/"))


def told(left_out: Sequence[str]) -> str:
    """Count and name what is left out, kind by kind."""
    groups: Counter[str] = Counter()
    first: dict[str, str] = {}
    for name in left_out:
        base = name.rstrip("/").rsplit("/", 1)[-1]
        suffix = "" if name.endswith("/") or base.startswith(".") else os.path.splitext(base)[1]  # noqa: PTH122
        group = f"*{suffix}" if suffix else base
        groups[group] += 1
        first.setdefault(group, name)
    parts = [
        first[group] if count == 1 else f"{count} {group} ({first[group]}, ...)"
        for group, count in groups.most_common(_MOST_GROUPS)
    ]
    rest = len(groups) - len(parts)
    more = f" and {rest} other kinds" if rest else ""
    return f"left out, no images by their names: {len(left_out)}; {', '.join(parts)}{more}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False
