"""How a folder of images is laid out: which files are of which class, and of which split if its folders say so.

Understood: class folders; train, validation and test folders around class folders or inside of them; one folder
without classes; each of these some folders deeper.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from troika.datasets.contract import SPLITS, Labels, SplitName
from troika.datasets.sources.source import sayable
from troika.datasets.sources.tree import Found, Note, Tree, natural, told
from troika.errors import DatasetError

ONE_CLASS = "images"
"""The class of all images of a folder without class folders."""
SplitsParam = Literal["auto", "given", "hashed", "classes"]

_SPLIT_WORDS: dict[str, SplitName] = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_BESIDE_SPLIT_WORDS = {"data", "dataset", "files", "folder", "image", "images", "img", "imgs", "jpg", "png", "rev"}
_BESIDE_SPLIT_WORDS |= {"samples", "seg", "set", "split", "x"}
_GLUED = re.compile(rf"({'|'.join(_SPLIT_WORDS)})(data|dataset|files|images?|imgs?|set|split)")
_SPLIT_AND_SIDE = re.compile(r"(train|val|valid|test)[-_ ]?[ab]")
_SAYS_NO_CLASS = {"data", "files", "image", "images", "img", "imgs", "jpg", "jpeg", "png"}
_KEPT_FIRST: tuple[SplitName, ...] = ("test", "validation", "train")


@dataclass
class Layout:
    """The files of a folder."""

    names: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    notes: dict[int, Note] = field(default_factory=dict)
    """Position of a file -> what is to be known of it."""
    splits: list[int] = field(default_factory=list)
    """Position in SPLITS of each file; empty: the folders do not tell."""
    remarks: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def label_array(self) -> Labels:
        """Labels (N,)."""
        return np.array(self.labels, np.int64)

    @property
    def given(self) -> NDArray[np.int8] | None:
        """Position in SPLITS of each file, (N,)."""
        return np.array(self.splits, np.int8) if self.splits else None

    def add(self, files: Sequence[Found], label: int, split: SplitName | None) -> None:
        """Append files of one class."""
        for file in files:
            if file.note:
                self.notes[len(self.names)] = file.note
            self.names.append(file.name)
        self.labels += [label] * len(files)
        if split:
            self.splits += [SPLITS.index(split)] * len(files)


def split_of(name: str) -> SplitName | None:
    """Return the split that a folder's name says, such as `Valid`, `test_set` or `train2017`; None: none."""
    split, others = _split_and_others(name)
    return None if others else split


def _split_and_others(name: str) -> tuple[SplitName | None, str]:
    """Return the split that is named among a name's words, and those words that name neither it nor a set."""
    between = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # trainImages
    words = [_GLUED.sub(r"\1", word) for word in re.findall(r"[^\W\d_]+", between.casefold())]
    found = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    others = [word for word in words if word not in _SPLIT_WORDS and word not in _BESIDE_SPLIT_WORDS]
    return found.pop() if len(found) == 1 else None, " ".join(others)


def read_layout(tree: Tree, splits: SplitsParam) -> Layout:
    """List all files of a folder with their classes.

    Raises:
        DatasetError: it holds no image, files beside folders, or folders that may be classes or splits.
    """
    layout = Layout()
    at, folders, files = _step_in(tree, "", layout)
    _refuse_both(tree, at, folders, files)
    parts = {} if splits == "classes" else _parts(tree, at, folders, layout)
    if parts:
        _add_parts(tree, parts, splits, layout)
    elif folders:
        _add_classes(tree, folders, None, layout)
        if splits in ("auto", "given"):
            _look_for_splits_in_classes(layout, len(at.split("/")) if at else 0)
    else:
        layout.classes = (ONE_CLASS,)
        layout.add(files, 0, None)
    if tree.left_out:
        layout.remarks.append(sayable(told(tree.left_out)))
    layout.left_out += tree.left_out
    if not layout.names:
        inside = "; ".join(layout.remarks) or ("its folders are empty" if folders else "it is empty")
        raise DatasetError(f"{tree.root} holds no image: {inside}")
    if splits == "given" and not layout.splits:
        raise DatasetError(
            f"splits: {tree.root} has no folders train and test (or validation) with images in them; "
            "set splits to hashed, or to auto"
        )
    return layout


def _step_in(tree: Tree, at: str, layout: Layout) -> tuple[str, list[str], list[Found]]:
    """Where class folders begin: below folders that hold nothing but one folder of folders."""
    folders, files = tree.look(at)
    start = at
    while len(folders) == 1 and not files:
        below = tree.look(folders[0])
        if not below[0]:
            break
        at, (folders, files) = folders[0], below
        if at.count("/") > _DEEPEST:
            raise DatasetError(f"{tree.root}: its folders, or links to them, lie in one another without end")
    if at != start:
        layout.remarks.append(f"class folders are those in {sayable(at)}, the only folder")
    return at, folders, files


_DEEPEST = 50


def _refuse_both(tree: Tree, at: str, folders: Sequence[str], files: Sequence[Found]) -> None:
    """Raise DatasetError where files lie beside folders, or a class folder is a link that is not followed."""
    images = [file for file in files if file.note is None or file.note.followed]
    if folders and images:
        raise DatasetError(
            f"{tree.root / at} holds both folders ({_base(folders[0])}) and files ({_base(images[0].name)}); "
            "give a folder with a sub-folder for each class, or one with images alone"
        )
    if not images:
        for file in files:
            assert file.note is not None  # noqa: S101 - else it would be an image
            raise DatasetError(f"{file.note.problem}: {tree.root / file.name} is {file.note.detail}")


def _parts(tree: Tree, at: str, folders: Sequence[str], layout: Layout) -> dict[str, SplitName]:
    """Folder -> split, where all folders are called like splits; empty: they are classes."""
    if parts := _parts_of_one_name(tree, at, folders):
        return parts
    found = {folder: split for folder in folders if (split := split_of(_base(folder)))}
    if len(found) == len(folders):
        return found
    # A class may be called `train`, as railway pictures are; but not beside `test`, nor with class folders in it.
    if len(set(found.values())) > 1 or any(_holds_folders(tree, folder) for folder in found):
        rest = [folder for folder in folders if folder not in found]
        without = [folder for folder in rest if next(tree.below(folder), None) is None]
        layout.remarks += [f"{sayable(folder)} holds no image" for folder in without]
        if without == rest:
            return found
        others = [_base(folder) for folder in rest if folder not in without]
        raise DatasetError(
            f"{tree.root / at} holds {', '.join(map(_base, found))}, which are called like splits, beside "
            f"{', '.join(others[:5])}; give a folder of splits alone or of classes alone, or set splits to classes"
        )
    if found:
        names = sayable(", ".join(map(_base, found)))
        layout.remarks.append(f"{names} is taken for a class, though it is called like a split")
    return {}


def _parts_of_one_name(tree: Tree, at: str, folders: Sequence[str]) -> dict[str, SplitName]:
    """Folder -> split, where all are called like one set's splits (`digits_train`, `digits_test`).

    Raises:
        DatasetError: their names say split and class in one (`train_cat`, `test_cat`, `train_dog`, ...).
    """
    sides = {_base(folder) for folder in folders if _SPLIT_AND_SIDE.fullmatch(_base(folder).casefold())}
    by_rest: dict[str, dict[str, SplitName]] = defaultdict(dict)
    for folder in folders:
        split, others = _split_and_others(_base(folder))
        if split and others:
            by_rest[others][folder] = split
    crossed = [found for found in by_rest.values() if len(set(found.values())) > 1]
    if len(crossed) == 1 and len(crossed[0]) == len(folders) and not sides:
        return crossed[0]
    both = [
        _base(folder) for folder in folders if _base(folder) in sides or any(folder in found for found in crossed)
    ]
    if len(both) > 1:
        raise DatasetError(
            f"{tree.root / at} holds {', '.join(both[:10])}, whose names say split and class in one; "
            "give a folder for each class, or set splits to classes"
        )
    return {}


def _holds_folders(tree: Tree, folder: str) -> bool:
    folders, files = tree.look(folder)
    return bool(folders) and not files


def _add_parts(tree: Tree, parts: dict[str, SplitName], splits: SplitsParam, layout: Layout) -> None:
    """Add the files of folders train, validation and test."""
    looked = {part: _step_in(tree, part, layout) for part in parts}
    for part, (at, folders, files) in looked.items():
        _refuse_both(tree, at, folders, files)
        if not folders and not files:
            layout.remarks.append(f"{sayable(part)} holds no image")
    looked = {part: _without_folder_of_all(tree, part, looked) for part in looked}
    labelled = any(folders for _, folders, _ in looked.values())
    if labelled:
        _refuse_unlabelled_train(tree, looked, parts)
        for part, (_, _, files) in looked.items():
            if files:
                layout.remarks.append(
                    f"{sayable(part)} is left out: its {len(files)} images lie in no class folder"
                )
                layout.left_out.append(f"{part}/")
        looked = {part: found for part, found in looked.items() if not found[2]}
    looked = {part: found for part, found in looked.items() if found[1] or found[2]}
    kinds = {parts[part] for part in looked}
    given = splits != "hashed" and "train" in kinds and len(kinds) > 1
    if splits == "given" and not given:
        raise DatasetError(
            f"splits: {tree.root} has images for {', '.join(sorted(kinds)) or 'no split'} alone; "
            "given splits need train, and test or validation; or set splits to hashed"
        )
    in_order = sorted(looked, key=lambda part: (parts[part] != "train", natural(part)))
    spelled = _one_spelling([_base(folder) for folder in looked[part][1]] for part in in_order)
    names = sorted(set(spelled.values()), key=natural) if labelled else [ONE_CLASS]
    layout.remarks += [sayable(f"{a} and {b} are one class, {b}") for a, b in spelled.items() if a != b]
    layout.classes = tuple(map(sayable, names))
    for part in sorted(looked, key=lambda part: (kept_first(parts[part]), natural(part))):
        _, folders, files = looked[part]
        split = parts[part] if given else None
        for folder in folders:
            layout.add(sorted(tree.below(folder)), names.index(spelled[_base(folder)]), split)
        layout.add(files, 0, split)
    shown = ", ".join(sayable(_base(part)) for part in looked)
    if given:
        layout.remarks.append(told_given(f"the folders {shown}", kinds))
    else:
        layout.remarks.append(f"splits: hashed; what lies in {shown} is one set, and split anew")


_Looked = tuple[str, list[str], list[Found]]
"""Where class folders begin, these, and files beside them."""


def _without_folder_of_all(tree: Tree, part: str, looked: dict[str, _Looked]) -> _Looked:
    """What a part holds, where a folder `images` around all images of one is no class as others have classes."""
    at, folders, files = looked[part]
    if len(folders) != 1 or _base(folders[0]).casefold() not in _SAYS_NO_CLASS:
        return looked[part]
    others = {_base(folder) for name, found in looked.items() if name != part for folder in found[1]}
    if others <= _SAYS_NO_CLASS or _base(folders[0]) in others - _SAYS_NO_CLASS:
        return looked[part]
    return at, [], [*files, *tree.below(folders[0])]


def _refuse_unlabelled_train(tree: Tree, looked: dict[str, _Looked], parts: dict[str, SplitName]) -> None:
    """Raise DatasetError where train has no class folders, and others do: to leave it out is nobody's wish."""
    for part, (_, _, files) in looked.items():
        if files and parts[part] == "train":
            labelled = next(name for name, found in looked.items() if found[1])
            raise DatasetError(
                f"{tree.root / part} holds images in no class folders, but {_base(labelled)} has class folders; "
                f"sort those of {_base(part)} into class folders too, or give the path of one of them"
            )


def _one_spelling(parts: Iterable[list[str]]) -> dict[str, str]:
    """Class folder -> name of the class: `Cat` of one part and `cat` of another are one, by the first's name.

    So are names whose accents are stored in two ways. Where one part has both, they are two classes.
    """
    each = list(parts)
    spellings: dict[str, dict[str, None]] = defaultdict(dict)
    apart: set[str] = set()
    for names in each:
        folded = [_folded(name) for name in names]
        apart |= {name for name in folded if folded.count(name) > 1}
        for name, fold in zip(names, folded, strict=True):
            spellings[fold][name] = None
    return {
        name: name if fold in apart else next(iter(found)) for fold, found in spellings.items() for name in found
    }


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def kept_first(split: SplitName) -> int:
    """Return a key that puts held-out images first: of equal images the first is kept."""
    return _KEPT_FIRST.index(split)


def told_given(where: str, kinds: set[SplitName]) -> str:
    """Say that given splits are used, and which one they lack."""
    missing = [name for name in SPLITS if name not in kinds]
    derived = f"; {missing[0]} is taken out of train by hash" if missing else ""
    return f"splits: given, by {where}{derived}"


def _add_classes(tree: Tree, folders: Sequence[str], split: SplitName | None, layout: Layout) -> None:
    layout.classes = tuple(sayable(_base(folder)) for folder in folders)
    for label, folder in enumerate(folders):
        layout.add(sorted(tree.below(folder)), label, split)


def _look_for_splits_in_classes(layout: Layout, depth: int) -> None:
    """Class folders that hold nothing but train and test folders: each file's split stands in its path."""
    said = [split_of(name.split("/")[depth + 1]) if name.count("/") > depth + 1 else None for name in layout.names]
    found = [split for split in said if split]
    kinds = set(found)
    if "train" not in kinds or len(kinds) < 2:
        return
    if len(found) < len(said):
        other = layout.names[said.index(None)]
        layout.remarks.append(
            f"splits: hashed; folders in class folders are called like splits, but {sayable(other)} lies in none"
        )
        return
    order = sorted(range(len(found)), key=lambda index: kept_first(found[index]))
    layout.notes = {new: layout.notes[old] for new, old in enumerate(order) if old in layout.notes}
    layout.names = [layout.names[index] for index in order]
    layout.labels = [layout.labels[index] for index in order]
    layout.splits = [SPLITS.index(found[index]) for index in order]
    layout.remarks.append(told_given("the folders in each class folder", kinds))


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]
