"""The guide on versions, as it stands, with a real Git repository and a server that speaks S3; then two runs."""

import contextlib
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
from typing import Any

import numpy as np
import pytest
import yaml
from quick import REPOSITORY
from raw_images import Made, prepare, random_images, write_folder
from s3_server import s3_server

sys.path.insert(0, str(Path(__file__).parents[1] / "components"))

from tiny_steps import step_function, tiny_params

from troika.cli_data import data_changes, set_version
from troika.datasets.dvc_source import fetch, shown
from troika.errors import DatasetError, ParameterError
from troika.releases.bundle import Bundle
from troika.releases.pointer import ensure_local_remote

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


@pytest.fixture(scope="module")
def two_runs(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Made]:
    """v1, and v2 compared with it, prepared where there is neither .git nor .dvc, as in a pod."""
    folder = tmp_path_factory.mktemp("pod")
    with contextlib.chdir(folder):
        return run(folder / "1", repository, "v1"), run(folder / "2", repository, "v2", previous="v1")


def test_two_revisions_are_used_in_two_runs_and_told_apart(
    repository: Path, two_runs: tuple[Made, Made], tmp_path: Path
) -> None:
    one, two = two_runs
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
    assert '<td class="name">a</td><td class="number">40</td><td class="number">60</td>' in text
    assert first.content_hash in two.report
    assert "Against the previous version" not in one.report
    # The same revision again, by its commit: the same dataset.
    again = run(tmp_path / "3", repository, commit_of(repository, "v1"))
    assert again.dataset.info.content_hash == first.content_hash
    assert sorted(path.name for path in again.folder.iterdir()) == ["data.html", "dataset", "refused.json"]


def release_model_of(made: Made, remote: Path) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Train a little, export, judge, publish, release: model card, lineage and the data of release.yaml."""
    folder = made.folder
    names = ("checkpoint", "bundle", "verdict.json", "reference.npz", "published.json")
    checkpoint, bundle, verdict, reference, published = (folder / name for name in names)
    lenient = {"class_balance": {"above_floor": None, "at_most": 2.0}}  # it has learnt nothing in these steps
    step_function("train")(folder / "dataset", checkpoint, folder / "h.jsonl", tiny_params("train", steps=2))
    step_function("export_model")(checkpoint, bundle, tiny_params("export_model"))
    evaluator, champion = folder / "evaluator.onnx", folder / "champion.json"
    step_function("train_evaluator")(folder / "dataset", evaluator, tiny_params("train_evaluator"))
    step_function("find_champion")(champion, str(remote), "staging", tiny_params("find_champion"))
    step_function("evaluate")(
        bundle, folder / "dataset", evaluator, champion, verdict, reference, folder / "e.html", folder / "m.json",
        tiny_params("evaluate", limits=lenient),
    )  # fmt: skip
    step_function("publish_model")(bundle, verdict, reference, published, str(folder / "store"))
    params = tiny_params("release_model", golden_test=False)
    step_function("release_model")(published, folder / "release.json", str(remote), "staging", params)
    text = subprocess.run(
        ["git", "show", "main:manifests/serving/overlays/staging/release.yaml"],
        cwd=remote, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return (bundle / "model_card.md").read_text(), Bundle.open(bundle).lineage, yaml.safe_load(text)["data"]


def test_models_of_two_revisions_are_told_apart_down_to_the_release(
    repository: Path, two_runs: tuple[Made, Made], tmp_path: Path
) -> None:
    remote = ensure_local_remote(tmp_path / "releases.git")
    hashes = set()
    for made, rev, other in zip(two_runs, ("v1", "v2"), ("v2", "v1"), strict=True):
        card, lineage, released = release_model_of(made, remote)
        info, commit = made.dataset.info, commit_of(repository, rev)
        assert f"| DVC revision | {rev}, commit `{commit}` |" in card
        assert f"| DVC repository and path | {repository.name}, `images` |" in card
        assert f"| DVC hash of the source | `{info.origin.dvc_hash}` |" in card
        assert f"| dataset content hash | `{info.content_hash}` |" in card
        assert commit_of(repository, other) not in card
        assert lineage["dataset"]["origin"] == info.origin.model_dump(exclude_defaults=True)
        assert released["dataset"] == lineage["dataset"]["content_hash"] == info.content_hash
        assert released["datasetSource"] == f"folder images, {repository.name} at {rev} ({commit[:12]})"
        hashes.add(released["dataset"])
    assert len(hashes) == 2


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
