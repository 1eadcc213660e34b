"""The guide on versions, as it stands, with a real Git repository and a server that speaks S3; then two runs."""

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from quick import REPOSITORY
from raw_images import Made, prepare, random_images, write_folder
from s3_server import s3_server

from troika.cli_data import data_changes, set_version
from troika.datasets.dvc_source import fetch, shown
from troika.errors import DatasetError, ParameterError

GUIDE = (REPOSITORY / "docs" / "guides" / "data-versions.md").read_text("utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)

# DVC leaves files of its clones open where it fails; they are closed here, so that no later test is told.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the guide makes: v1 with 80 images of two classes, v2 with 20 more of the first."""
    folder = tmp_path_factory.mktemp("guide")
    write_folder(folder / "images", random_images(80, size=(8, 8)), np.arange(80) % 2)
    write_folder(folder, random_images(20, seed=5, size=(8, 8)), np.zeros(20, np.int64), ["more"])
    for index, path in enumerate((folder / "more").iterdir()):
        path.rename(path.with_name(f"new{index}.png"))
    with s3_server():
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_GLOBAL_CONFIG_DIR": str(folder),
            "DVC_SITE_CACHE_DIR": str(folder / "site"),
            "GIT_AUTHOR_NAME": "Test", "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "Test", "GIT_COMMITTER_EMAIL": "test@localhost",
        }  # fmt: skip
        script = "\n".join(BLOCKS).replace("s3://my-bucket/", "s3://models/")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder, env=environment, check=False, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(list((folder / "pictures" / "images" / "a").iterdir())) == 40, "gone back to v1"
        # Only the remote has the bytes now: a pod has no cache of anybody.
        shutil.rmtree(folder / "pictures" / ".dvc" / "cache")
        shutil.rmtree(folder / "pictures" / "images")
        yield folder / "pictures"


def commit_of(repository: Path, rev: str) -> str:
    return subprocess.run(
        ["git", "rev-parse", f"{rev}^{{commit}}"], cwd=repository, check=True, capture_output=True, text=True
    ).stdout.strip()


def run(folder: Path, repository: Path, rev: str, **changes: object) -> Made:
    return prepare(folder, "images", dvc={"repo": f"file://{repository}", "rev": rev}, **changes)


def test_two_revisions_are_used_in_two_runs_and_told_apart(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pod").mkdir()
    monkeypatch.chdir(tmp_path / "pod")  # no .git, no .dvc
    one, two = run(tmp_path / "1", repository, "v1"), run(tmp_path / "2", repository, "v2", previous="v1")
    first, second = one.dataset.info, two.dataset.info
    assert (sum(first.counts.values()), sum(second.counts.values())) == (80, 100)
    assert first.content_hash != second.content_hash
    for rev, info, made in (("v1", first, one), ("v2", second, two)):
        origin = info.origin
        assert (origin.kind, origin.path, origin.rev) == ("folder", "images", rev)
        assert origin.commit == commit_of(repository, rev)
        pointer = subprocess.run(
            ["git", "show", f"{rev}:images.dvc"], cwd=repository, check=True, capture_output=True, text=True
        ).stdout
        assert f"md5: {origin.dvc_hash}\n" in pointer
        for value in (str(origin.commit), str(origin.dvc_hash), info.content_hash):
            assert value in made.report
    text = re.sub(r"\s+", " ", two.report)
    for name, number in (("in both", 80), ("added", 20), ("removed", 0), ("moved to another split", 0)):
        assert f'<td>{name}</td><td class="number">{number}</td>' in text
    assert '<td>a</td><td class="number">40</td><td class="number">60</td>' in text
    assert first.content_hash in two.report
    assert "Against the previous version" not in one.report
    # The same revision again, by its commit: the same dataset.
    again = run(tmp_path / "3", repository, commit_of(repository, "v1"))
    assert again.dataset.info.content_hash == first.content_hash
    assert sorted(path.name for path in (tmp_path / "2").iterdir()) == ["data.html", "dataset", "refused.json"]


def test_what_cannot_be_read_is_named(repository: Path, tmp_path: Path) -> None:
    url = f"file://{repository}"
    with pytest.raises(DatasetError, match="cannot read images of pictures at revision v9"):
        fetch(url, "v9", "images", tmp_path)
    with pytest.raises(DatasetError, match="path: pictures has no nothing at revision v1"):
        fetch(url, "v1", "nothing", tmp_path)
    with pytest.raises(ParameterError, match=r"dvc\.rev: give a tag"):
        fetch(url, "", "images", tmp_path)
    for path in ("../images", "/etc", ""):
        with pytest.raises(ParameterError, match="must be the path of a file or folder inside"):
            fetch(url, "v1", path, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("repo", "expected"),
    [
        ("https://user:secret@git.example:8443/a/b.git", "https://git.example:8443/a/b.git"),
        ("https://token@git.example/a.git?key=x", "https://git.example/a.git"),
        ("git@git.example:a/b.git", "git@git.example:a/b.git"),
        ("ssh://git@git.example/a.git", "ssh://git.example/a.git"),
        ("/home/me/pictures", "pictures"),
        ("file:///home/me/pictures", "pictures"),
    ],
)
def test_a_repository_is_told_without_secrets_and_folders(repo: str, expected: str) -> None:
    assert shown(repo) == expected


def test_the_command_turns_options_into_parameters_and_sees_changed_data(repository: Path, tmp_path: Path) -> None:
    changes = data_changes("images", str(repository), "v1", "v0", "pictures")
    assert [change.partition("=")[0] for change in changes] == [
        "prepare_data.source",
        "prepare_data.path",
        "prepare_data.dvc.repo",
        "prepare_data.dvc.rev",
        "prepare_data.previous",
        "export_model.model_name",
    ]
    sections = {"prepare_data": {"version": "", "path": "images", "dvc": {"repo": str(repository), "rev": "v1"}}}
    set_version(sections, files=True)
    assert sections["prepare_data"]["version"] == commit_of(repository, "v1")

    def state() -> str:
        section = {"version": "", "path": str(tmp_path), "dvc": {"repo": "", "rev": ""}}
        set_version({"prepare_data": section}, files=True)
        return json.dumps(section)

    (tmp_path / "image").write_bytes(b"1")
    before = state()
    assert state() == before
    (tmp_path / "image").write_bytes(b"12")
    assert state() != before
    with pytest.raises(ParameterError, match="--repo: give --dataset"):
        data_changes(None, "url", "v1", None, None)
    with pytest.raises(ParameterError, match="--rev: give --repo"):
        data_changes("images", None, "v1", None, None)
