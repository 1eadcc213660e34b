"""Whatever lies in a folder, each file of it is used, refused or left out with a reason, and only one of these."""

import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from raw_images import encoded, prepare, random_images

from troika.cli_data import set_version
from troika.datasets.contract import SPLITS
from troika.errors import DatasetError

SIDE = 6
KINDS = [
    "PNG",
    "JPEG",
    "BMP",
    "WEBP",
    "half",
    "text",
    "empty",
    "other size",
    "link",
    "circle",
    "nowhere",
    "outside",
]
NAMES = ["a.png", "B.PNG", "c", "d e.jpg", "ü.png", "[x].png", "Thumbs.db", ".hidden", "notes.txt", "LICENSE", "7"]
SHAPES = [
    [""],
    ["cat", "dog", "10", "9", "cat/deep"],
    ["only/cat", "only/dog", "only/__MACOSX", "only/.git"],
    ["train/cat", "train/dog", "test/cat", "test/dog", "val/cat", "val/dog"],
    ["train/cat", "train/dog", "test", "cat"],
    ["cat/train", "cat/test", "dog/train", "dog/test"],
    ["", "cat", "dog", "train"],
]
outcomes: list[str] = []
"""Of each tree: what the error said, or nothing."""


def trees_of(folders: list[str]) -> st.SearchStrategy[dict[tuple[str, str], str]]:
    """(folder, name) -> kind of file."""
    keys = st.tuples(st.sampled_from(folders), st.sampled_from(NAMES))
    return st.dictionaries(keys, st.sampled_from(KINDS), min_size=1, max_size=14)


trees = st.sampled_from(SHAPES).flatmap(trees_of)


def write(root: Path, tree: dict[tuple[str, str], str]) -> None:
    """Some trees cannot be written whole: what stands where a folder should be comes first and stays."""
    elsewhere = root.parent / "elsewhere.png"
    elsewhere.write_bytes(encoded(Image.fromarray(random_images(1, seed=10**6, size=(SIDE, SIDE))[0, ..., 0])))
    for number, ((folder, name), kind) in enumerate(tree.items()):
        path = root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (SIDE + 1, SIDE) if kind == "other size" else (SIDE, SIDE)
        picture = Image.fromarray(random_images(1, seed=number, channels=3, size=size)[0])
        targets = {
            "link": [other.name for other in path.parent.iterdir()][:1] or ["x"],
            "circle": [".."],
            "nowhere": ["gone"],
        }
        if path.exists():
            continue
        if kind in targets:
            path.symlink_to(targets[kind][0])
        elif kind == "outside":
            path.symlink_to(elsewhere)
        elif kind in ("text", "empty", "half"):
            path.write_bytes({"text": b"no image", "empty": b"", "half": encoded(picture)[:60]}[kind])
        else:
            path.write_bytes(encoded(picture, kind if kind.isupper() else "PNG"))


def all_files(root: Path) -> set[str]:
    """Every entry that is no real folder, with folders that hold no file left aside."""
    found = set()
    for at, below, files in os.walk(root):
        here = Path(at)
        found |= {str((here / name).relative_to(root)) for name in files}
        found |= {str((here / name).relative_to(root)) for name in below if (here / name).is_symlink()}
    return found


@settings(max_examples=60, derandomize=True)
@given(
    tree=trees,
    splits=st.sampled_from(["auto", "hashed", "classes", "given"]),
    outside=st.sampled_from(["warn", "quarantine"]),
    scaled=st.booleans(),
)
def try_tree(tree: dict[tuple[str, str], str], splits: str, outside: str, scaled: bool) -> None:
    scratch = Path(tempfile.mkdtemp())
    try:
        (scratch / "set").mkdir()
        write(scratch / "set", tree)
        # Enough good pictures in each class that is there, so that most trees make a dataset.
        for folder in {path.parent for path in (scratch / "set").rglob("*") if not path.is_dir()}:
            for number in range(12):
                image = random_images(
                    1, channels=3, seed=zlib.crc32(f"{folder}{number}".encode()), size=(SIDE, SIDE)
                )[0]
                Image.fromarray(image).save(folder / f"good{number}.png")
        check(scratch, splits, outside, scaled)
    finally:
        shutil.rmtree(scratch)


def check(scratch: Path, splits: str, outside: str, scaled: bool) -> None:
    root = scratch / "set"
    before = all_files(root)
    policies: dict[str, Any] = {"outside_link": outside, "other_size": "quarantine", "empty_class": "warn"}
    section = {"version": "", "path": str(root), "dvc": {"repo": ""}, "policies": policies}
    set_version({"prepare_data": section}, files=True)
    try:
        made = prepare(
            scratch / "out",
            root,
            splits=splits,
            image_size=SIDE if scaled else 0,
            policies={**policies, "near_duplicate": "warn", "leakage": "warn", "too_small": "warn"},
            max_refused_share=1.0,
            validation_share=0.35,
            test_share=0.35,
        )
    except DatasetError as error:
        outcomes.append(str(error))
        return
    outcomes.append("")
    refused = [entry["name"] for entry in made.refused["quarantined"]]
    left_out = made.refused["left_out"]
    assert len(set(refused)) == len(refused)
    kept = sum(len(made.dataset.splits[name]) for name in SPLITS)
    assert kept + len(refused) == made.refused["images"]
    assert not set(refused) & set(left_out)
    aside = {name for name in before if name in left_out or any(name.startswith(f) for f in folders_of(left_out))}
    if outside == "quarantine" and not any((root / name).is_dir() for name in before):
        assert kept + len(refused) + len(aside) == len(before)
    for entry in made.refused["quarantined"]:
        assert entry["problem"]
        assert entry["detail"]
    said = " ".join(made.refused["remarks"])
    if splits != "classes":
        for name in {"train", "test", "val"} & set(made.dataset.info.classes):
            assert f"{name} is taken for a class, though it is called like a split" in said
    assert np.unique(np.concatenate([made.dataset.splits[name].labels for name in SPLITS])).tolist() == list(
        range(len(made.dataset.info.classes))
    )


def test_each_file_is_used_refused_or_left_out() -> None:
    outcomes.clear()
    try_tree()
    made = [words for words in outcomes if not words]
    said = [words for words in outcomes if words]
    assert len(made) > len(outcomes) / 4
    assert len(said) > 2
    assert all(len(words) > 20 and "\n" not in words for words in said)


def folders_of(names: list[str]) -> list[str]:
    return [name for name in names if name.endswith("/")]
