"""A folder or a file appears whole or not at all, and an error leaves the old one and nothing else."""

import hashlib
import stat
from pathlib import Path

import pytest

from troika.errors import TroikaError
from troika.folders import check_writable, replace_folder, sha256_file, write_atomic


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def enter(folder: Path) -> None:
    with replace_folder(folder):
        pytest.fail("began work that cannot be kept")


def test_a_new_folder_appears_only_at_the_end(tmp_path: Path) -> None:
    with replace_folder(tmp_path / "deep" / "target") as new:
        (new / "a").write_text("1")
        assert not (tmp_path / "deep" / "target").exists()
        assert new.parent == tmp_path / "deep"  # the same file system, or the last move were a copy
    assert content(tmp_path) == {"deep/target/a": b"1"}
    assert stat.S_IMODE((tmp_path / "deep" / "target").stat().st_mode) == 0o755


def test_an_old_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").write_text("0")
    with replace_folder(tmp_path / "target") as new:
        (new / "a").write_text("1")
        assert content(tmp_path / "target") == {"old": b"0"}
    assert content(tmp_path) == {"target/a": b"1"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").write_text("0")

    def fail() -> None:
        with replace_folder(tmp_path / "target") as new:
            (new / "a").write_text("1")
            raise error

    with pytest.raises(error):
        fail()
    assert content(tmp_path) == {"target/old": b"0"}
    assert list(tmp_path.iterdir()) == [tmp_path / "target"]


@pytest.mark.parametrize("kind", ["file", "link to a folder", "broken link"])
def test_what_is_no_folder_is_not_replaced(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("mine")
    else:
        (tmp_path / "elsewhere").mkdir()
        target.symlink_to(tmp_path / ("elsewhere" if kind == "link to a folder" else "gone"))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(TroikaError, match=f"cannot write {target}: a file or a link is there"):
        enter(target)
    assert sorted(tmp_path.iterdir()) == before


def test_a_parent_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "target"
    with pytest.raises(TroikaError, match=f"cannot write {target}: .*; give a folder that you may write"):
        enter(target)
    with pytest.raises(TroikaError, match=f"cannot write {target}: .*; give a path that you may write"):
        write_atomic(target, "x")
    with pytest.raises(TroikaError, match=f"--home: cannot write {target}: "):
        check_writable(target, "--home")


@pytest.mark.parametrize("text", ["", "zwei\nZeilen, Größe\n", b"\x00\xff"])
def test_a_file_is_written_with_its_folders(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "deep" / "file"
    write_atomic(path, "old")
    write_atomic(path, text)
    assert path.read_bytes() == (text if isinstance(text, bytes) else text.encode())
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(TroikaError, match=f"cannot write {tmp_path / 'folder'}"):
        write_atomic(tmp_path / "folder", "x")
    with pytest.raises(TypeError):
        write_atomic(tmp_path / "number", 3)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_a_digest_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "file") == "sha256:" + hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_checking_a_folder_makes_it_and_leaves_it_empty(tmp_path: Path) -> None:
    check_writable(tmp_path / "deep" / "home", "--home")
    assert list((tmp_path / "deep" / "home").iterdir()) == []
