"""What `dvc get` reads is read: any path and revision, repositories within others, DVC 2; and true bytes."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dvc_repositories import add, apart, begin, commit, git, push
from raw_images import prepare, random_images, write_folder

from troika.datasets.dvc_source import fetch, resolve
from troika.errors import DatasetError

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")

NAMES = ["a [b]", "star*", "größe 猫", "50%", "it's", "-x", "a{b,c}", "[!x]"]
"""DVC itself takes `?` and `#` in what is tracked for parts of a URL; in files below they are names."""


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository with a tracked folder for each odd name, all of the same three files with such names too."""
    folder = tmp_path_factory.mktemp("odd")
    with pytest.MonkeyPatch.context() as patch:
        apart(folder, patch)
        for name in NAMES:
            for number, file in enumerate(("one [1].png", "two*.png", "drei ü?#.png")):
                path = folder / "set" / "data" / name / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(f"{name}{number}".encode())
        begin(folder / "set", *(f"data/{name}" for name in NAMES))
        push(folder / "set", str(folder / "store"))
        for name in NAMES:
            shutil.rmtree(folder / "set" / "data" / name)
        yield folder / "set"


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def dvc_get(repo: Path, rev: str, path: str, out: Path) -> dict[str, bytes]:
    subprocess.run(
        [sys.executable, "-m", "dvc", "get", "--quiet", "--rev", rev, "-o", str(out), f"file://{repo}", path],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    return files_below(out)


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_no_pattern(odd: Path, tmp_path: Path, name: str) -> None:
    target, origin = fetch(f"file://{odd}", "main", f"data/{name}", tmp_path)
    found = files_below(target)
    assert sorted(found) == sorted(("one [1].png", "two*.png", "drei ü?#.png"))
    assert all(content.startswith(name.encode()) for content in found.values())
    assert origin.path == f"data/{name}"
    assert str(origin.dvc_hash).endswith(".dir")
    (tmp_path / "one").mkdir()
    single, _ = fetch(f"file://{odd}", "main", f"data/{name}/one [1].png", tmp_path / "one")
    assert single.read_bytes() == f"{name}0".encode()


@pytest.mark.parametrize("path", [".", "data", "data/", "./data"])
def test_the_whole_repository_and_folders_of_git_are_read(odd: Path, tmp_path: Path, path: str) -> None:
    target, _ = fetch(f"file://{odd}", "main", path, tmp_path)
    found = files_below(target)
    tracked = [name for name in found if not name.rsplit("/", 1)[-1].startswith(".")]
    assert len(tracked) == 3 * len(NAMES)
    assert target.name == ("set" if path == "." else "data")
    assert not [name for name in found if name.endswith(".dvc")]


def test_what_is_read_is_what_dvc_get_reads(odd: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    target, _ = fetch(f"file://{odd}", "main", "data/größe 猫", tmp_path / "in")
    assert files_below(target) == dvc_get(odd, "main", "data/größe 猫", tmp_path / "out")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    apart(tmp_path, monkeypatch)
    write_folder(tmp_path / "pictures" / "images", random_images(4, size=(8, 8)), np.arange(4) % 2)
    begin(tmp_path / "pictures", "images")
    push(tmp_path / "pictures", str(tmp_path / "store"))
    return tmp_path / "pictures"


def test_any_name_of_a_revision_is_taken(repository: Path, tmp_path: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    for name in ("v1.0+meta", "größe", "release/2026-01", "a@b", "HEAD-old", "1234567"):
        git(repository, "tag", name)
    git(repository, "tag", "--annotate", "annotated", "--message", "x")
    git(repository, "branch", "feature/x#1")
    commit(repository)
    revisions = ["v1.0+meta", "größe", "release/2026-01", "a@b", "HEAD-old", "1234567", "annotated", "feature/x#1"]
    for number, rev in enumerate(
        [*revisions, "HEAD~1", "main~1", "main^", first, first[:8], "refs/tags/v1.0+meta"]
    ):
        (tmp_path / f"in{number}").mkdir()
        target, origin = fetch(f"file://{repository}", rev, "images", tmp_path / f"in{number}")
        assert (origin.commit, origin.rev) == (first, rev)
        assert len(files_below(target)) == 4
        assert resolve(f"file://{repository}", rev) == first
    assert resolve(str(repository), "main") != first


def test_a_dvc_repository_within_a_git_repository_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apart(tmp_path, monkeypatch)
    root = tmp_path / "mono"
    write_folder(root / "teams" / "vision" / "images", random_images(60, size=(8, 8)), np.arange(60) % 2)
    begin(root, "images", subdir="teams/vision")
    push(root, str(tmp_path / "store"), subdir="teams/vision")
    shutil.rmtree(root / "teams" / "vision" / "images")
    made = prepare(tmp_path / "out", "teams/vision/images", dvc={"repo": f"file://{root}", "rev": "main"})
    assert sum(made.dataset.info.counts.values()) == 60
    origin = made.dataset.info.origin
    assert origin.dvc_hash is not None
    assert origin.dvc_hash in (root / "teams/vision/images.dvc").read_text()
    (tmp_path / "in").mkdir()
    below, _ = fetch(f"file://{root}", "main", "teams/vision/images/a", tmp_path / "in")
    assert len(files_below(below)) == 30


def to_dvc_2(repository: Path, store: Path) -> str:
    """Rewrite pointer and remote as DVC 2 has them; gives the hash of the folder."""
    pointer = repository / "images.dvc"
    pointer.write_text(pointer.read_text().replace("  hash: md5\n", ""))
    for path in [path for path in (store / "files" / "md5").rglob("*") if path.is_file()]:
        target = store / path.relative_to(store / "files" / "md5")
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    commit(repository)
    return next(line.split()[-1] for line in pointer.read_text().splitlines() if "md5:" in line)


def test_data_that_dvc_2_pushed_are_read_and_their_hash_is_kept(repository: Path, tmp_path: Path) -> None:
    expected = to_dvc_2(repository, tmp_path / "store")
    (tmp_path / "in").mkdir()
    target, origin = fetch(f"file://{repository}", "main", "images", tmp_path / "in")
    assert len(files_below(target)) == 4
    assert origin.dvc_hash == expected


def objects(store: Path) -> list[Path]:
    return [path for path in store.rglob("*") if path.is_file() and path.suffix != ".dir"]


@pytest.mark.parametrize("old", [False, True])
def test_bytes_that_are_not_what_was_pushed_are_refused(repository: Path, tmp_path: Path, old: bool) -> None:
    if old:
        to_dvc_2(repository, tmp_path / "store")
    victim, other = sorted(objects(tmp_path / "store"))[:2]
    victim.chmod(0o600)
    victim.write_bytes(other.read_bytes())  # a picture, but another one
    (tmp_path / "in").mkdir()
    words = r"images/[ab]/000\d\.png of images of pictures at revision main from remote store \(.*\) is not what"
    with pytest.raises(DatasetError, match=words) as caught:
        fetch(f"file://{repository}", "main", "images", tmp_path / "in")
    assert f"not {victim.parent.name}{victim.name}" in str(caught.value)


def test_a_single_file_that_is_not_what_was_pushed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart(tmp_path, monkeypatch)
    (tmp_path / "set").mkdir()
    np.savez(tmp_path / "set" / "x.npz", images=random_images(4), labels=np.arange(4))
    begin(tmp_path / "set", "x.npz")
    push(tmp_path / "set", str(tmp_path / "store"))
    (tmp_path / "in").mkdir()
    target, _ = fetch(f"file://{tmp_path}/set", "main", "x.npz", tmp_path / "in")
    assert target.name == "x.npz"
    (victim,) = objects(tmp_path / "store")
    victim.chmod(0o600)
    victim.write_bytes(victim.read_bytes() + b"x")
    with pytest.raises(DatasetError, match=r"^x\.npz of x\.npz of set .* is not what was pushed"):
        fetch(f"file://{tmp_path}/set", "main", "x.npz", tmp_path / "in")


@pytest.mark.parametrize("path", ["images", "images/a", "."])
def test_a_list_of_files_that_is_not_what_was_pushed_is_refused(
    repository: Path, tmp_path: Path, path: str
) -> None:
    """Who can write to the remote moves a picture to another class."""
    (listed,) = (tmp_path / "store").rglob("*.dir")
    entries = json.loads(listed.read_text())
    for entry in entries:
        entry["relpath"] = entry["relpath"].replace("b/", "a/b")
    listed.chmod(0o600)
    listed.write_text(json.dumps(entries))
    (tmp_path / "in").mkdir()
    with pytest.raises(DatasetError, match="the list of files in images is not what was pushed: its md5 is"):
        fetch(f"file://{repository}", "main", path, tmp_path / "in")


def test_a_previous_revision_that_fails_todays_policies_does_not_fail_a_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart(tmp_path, monkeypatch)
    root = tmp_path / "set"
    write_folder(root / "images", random_images(60, size=(8, 8)), np.arange(60) % 2)
    (root / "images" / "a" / "bad.png").write_bytes(b"no image")
    begin(root, "images")
    push(root, str(tmp_path / "store"))
    git(root, "tag", "old")
    (root / "images" / "a" / "bad.png").unlink()
    add(root, "images")
    where = {"dvc": {"repo": str(root), "rev": "main"}, "policies": {"unreadable": "fail"}}
    made = prepare(tmp_path / "out", "images", previous="old", **where)
    (words,) = [words for words in made.refused["remarks"] if words.startswith("drift:")]
    assert words.startswith("drift: not compared with old: a/bad.png: unreadable: ")
    assert "drift: not compared with old" in made.report
    compared = prepare(tmp_path / "out", "images", previous="old", dvc=where["dvc"])
    assert "added</td>" in compared.report, "the control: by other policies it is compared"
    with pytest.raises(DatasetError, match="unknown Git revision 'odl'"):
        prepare(tmp_path / "out", "images", previous="odl", **where)


def test_a_single_idx_file_finds_its_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apart(tmp_path, monkeypatch)
    folder = tmp_path / "set" / "digits"
    folder.mkdir(parents=True)
    images, labels = random_images(60, size=(8, 8)), (np.arange(60) % 2).astype(np.uint8)
    for name, array in (("train-images-idx3-ubyte", images[..., 0]), ("train-labels-idx1-ubyte", labels)):
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (folder / name).write_bytes(head + array.tobytes())
    begin(tmp_path / "set", "digits")
    push(tmp_path / "set", str(tmp_path / "store"))
    made = prepare(
        tmp_path / "out", "digits/train-images-idx3-ubyte", dvc={"repo": f"file://{tmp_path}/set", "rev": "main"}
    )
    assert sum(made.dataset.info.counts.values()) == 60
    md5 = hashlib.md5((folder / "train-images-idx3-ubyte").read_bytes()).hexdigest()  # noqa: S324
    assert made.dataset.info.origin.dvc_hash == md5
