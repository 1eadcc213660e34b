"""Whatever hinders reading out of a DVC repository is said in one sentence, without secrets, with what to do."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from dvc_repositories import add_remote, apart, begin, commit, push
from raw_images import prepare, random_images, write_folder
from s3_server import s3_server

from troika.cli_data import set_version
from troika.datasets.dvc_errors import Reading, explained, shown
from troika.datasets.dvc_source import fetch, resolve
from troika.errors import DatasetError, ParameterError

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    apart(tmp_path, monkeypatch)
    write_folder(tmp_path / "pictures" / "images", random_images(4, size=(8, 8)), np.arange(4) % 2)
    return begin(tmp_path / "pictures", "images")


def said(repo: Path | str, tmp_path: Path, rev: str = "main", path: str = "images") -> str:
    """The one line that reading ends with."""
    folder = tmp_path / "in"
    folder.mkdir(exist_ok=True)
    with pytest.raises(DatasetError) as caught:
        fetch(str(repo), rev, path, folder)
    words = str(caught.value)
    assert "\n" not in words
    assert len(words) < 700
    return words


def test_data_that_were_never_pushed(repository: Path, tmp_path: Path) -> None:
    add_remote(repository, str(tmp_path / "store"))
    commit(repository)
    shutil.rmtree(repository / ".dvc" / "cache")
    for repo in (repository, f"file://{repository}"):
        words = said(repo, tmp_path)
        assert words.startswith("cannot read images of pictures at revision main from remote store (/")
        assert "No such file" in words
        assert words.endswith("; was it pushed there? Run `dvc push` where the data lie")
    with pytest.raises(DatasetError, match="was it pushed there"):
        prepare(tmp_path / "out", "images", dvc={"repo": f"file://{repository}", "rev": "main"})
    assert [path.name for path in (tmp_path / "out").iterdir()] == []


def test_one_file_of_many_that_was_not_pushed_is_named(repository: Path, tmp_path: Path) -> None:
    push(repository, str(tmp_path / "store"))
    victim = next(path for path in (tmp_path / "store").rglob("*") if path.is_file() and path.suffix != ".dir")
    victim.unlink()
    words = said(repository, tmp_path)
    assert re.search(r"images/[ab]/000\d\.png", words)
    assert "was it pushed there?" in words


def test_no_remote_and_one_that_is_not_described(repository: Path, tmp_path: Path) -> None:
    shutil.rmtree(repository / ".dvc" / "cache")
    assert said(repository, tmp_path).endswith(
        "`dvc remote add --default NAME URL` and `dvc push`, and push to Git"
    )
    assert "names no default remote" in said(f"file://{repository}", tmp_path)
    (repository / ".dvc" / "config").write_text("[core]\n    remote = nope\n")
    commit(repository)
    words = said(f"file://{repository}", tmp_path)
    assert "remote nope, which its .dvc/config does not describe" in words
    assert "mend it with `dvc remote add`" in words


def test_a_relative_remote_of_a_clone(repository: Path, tmp_path: Path) -> None:
    push(repository, "../../store")
    words = said(f"file://{repository}", tmp_path)
    assert "from remote store (../../store)" in words
    assert "its URL is a path relative to the repository" in words


def test_a_repository_of_another_owner(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid():
        pytest.skip("only root can give files away")
    for path in (repository, *repository.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    words = said(repository, tmp_path)
    assert "is not owned by current user" in words
    assert words.endswith(f"git config --global --add safe.directory {repository}")
    section = {"version": "", "path": "images", "dvc": {"repo": str(repository), "rev": "main"}}
    with pytest.raises(DatasetError, match=r"safe\.directory"):
        set_version({"prepare_data": section}, files=True)


@pytest.mark.parametrize(
    "repo",
    [
        "http://me:topsecret@127.0.0.1:1/pictures.git",
        "ssh://me:topsecret@127.0.0.1:1/pictures.git",
        "https://topsecret@no-such-host.invalid/pictures.git?token=topsecret",
    ],
)
def test_a_host_that_cannot_be_reached(tmp_path: Path, repo: str) -> None:
    words = said(repo, tmp_path)
    assert words.endswith("; is the address right, and can it be reached from here?")
    assert "/pictures.git at revision main: " in words
    assert "topsecret" not in words
    with pytest.raises(DatasetError, match="can it be reached from here") as caught:
        resolve(repo, "main")
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://user:topsecret@127.0.0.1:1/data", "http://127.0.0.1:1/data?sig=topsecret"]
)
def test_a_remote_that_cannot_be_reached_and_whose_url_holds_a_secret(
    repository: Path, tmp_path: Path, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    add_remote(repository, url)
    commit(repository)
    shutil.rmtree(repository / ".dvc" / "cache")
    words = said(repository, tmp_path)
    assert re.search(r"from remote store \(http://(\*\*\*@)?127\.0\.0\.1:1/data(\?\*\*\*)?\): ", words)
    assert "can it be reached" in words
    assert "topsecret" not in words + "".join(capfd.readouterr())


def test_s3_denied_empty_missing_and_without_keys(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as server:
        push(repository, "s3://models/pictures")
        server.only_for("other")
        assert "are there credentials for it" in said(repository, tmp_path)
        server.only_for("key")
        config = (repository / ".dvc" / "config").read_text()
        for url, word in (
            ("s3://models/elsewhere", "elsewhere/files/md5"),
            ("s3://none/x", "bucket does not exist"),
        ):
            (repository / ".dvc" / "config").write_text(config.replace("s3://models/pictures", url))
            commit(repository)
            words = said(repository, tmp_path)
            assert f"from remote store ({url}): " in words
            assert word in words
            assert "was it pushed there?" in words


def test_what_is_not_there_and_what_is_none(repository: Path, tmp_path: Path) -> None:
    assert said(repository, tmp_path, rev="v9").endswith(
        "revision 'v9'; give a tag, branch or commit that is there; tags are pushed by `git push --tags`"
    )
    words = said(repository, tmp_path, path="imagse")
    assert words == "path: pictures has no imagse at revision main; / holds .gitignore, images"
    (tmp_path / "plain").mkdir()
    for folder in (tmp_path / "plain", tmp_path / "none"):
        assert said(folder, tmp_path).endswith("dvc.repo must be the URL or folder of a Git repository")
    with pytest.raises(ParameterError, match=r"images\.dvc only points to data; give .* such as images"):
        fetch(str(repository), "main", "images.dvc", tmp_path)
    (repository / "images.dvc").write_text("outs:\n- md5: [\n")
    commit(repository)
    assert "unable to read: 'images.dvc', YAML file structure is corrupted" in said(repository, tmp_path)
    (repository / ".dvc" / "config").write_text("[core\n x")
    commit(repository)
    assert "config file error" in said(repository, tmp_path)


def test_a_remote_of_a_kind_that_is_not_installed(repository: Path, tmp_path: Path) -> None:
    add_remote(repository, "azure://container/path")
    commit(repository)
    shutil.rmtree(repository / ".dvc" / "cache")
    words = said(repository, tmp_path)
    assert "from remote store (azure://container/path): azure is supported, but requires 'dvc-azure'" in words


def test_an_exception_that_nobody_expected_is_a_sentence_too() -> None:
    class OddError(Exception):
        pass

    with (
        pytest.raises(
            DatasetError, match=r"^cannot read x of r at revision v: an odd thing at http://\*\*\*@h/; "
        ),
        explained(Reading("/r", "v", "x")),
    ):
        raise OddError("an odd\nthing at http://me:secret@h/")
    with pytest.raises(KeyboardInterrupt), explained(Reading("/r", "v", "x")):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://u:s3cr/et@host:1/x", "https://host:1/x"),
        ("https://u:123/et@host/x", "https://host/x"),
        ("https://u:s3cret@[::1/x", "https://***@[::1/x"),
        ("https://u:s3cret@host:port/x", "https://***@host:port/x"),
        ("https://u:p@host:8443/x?token=s3cret#s3cret", "https://host:8443/x"),
    ],
)
def test_a_url_that_cannot_be_taken_apart_is_shown_without_secrets(url: str, expected: str) -> None:
    assert shown(url) == expected


def test_a_url_that_cannot_be_taken_apart_is_told_in_one_line(tmp_path: Path) -> None:
    words = said("https://u:s3cr/et@[::1", tmp_path)
    assert words.startswith("cannot read images of https://***@[::1 at revision main: ")
    assert "s3cr" not in words


def test_what_is_fetched_is_named_as_it_is_in_the_repository(repository: Path, tmp_path: Path) -> None:
    (repository / "notes.txt").write_text("x")
    commit(repository)
    with pytest.raises(DatasetError, match=r"^notes\.txt of pictures at main is no file of images"):
        prepare(tmp_path / "out", "notes.txt", dvc={"repo": str(repository), "rev": "main"})
