"""The hash in a model's record is the one that real DVC writes into its files for the same folder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from raw_images import prepare_npz, random_images

from troika.datasets.contract import Dataset
from troika.datasets.dvc_hash import dvc_hash


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare_npz(tmp_path_factory.mktemp("dvc"), random_images(60), np.arange(60) % 2)


@pytest.fixture(params=["with git", "without git"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    if request.param == "with git":
        subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
        dvc(root, "init", "--quiet")
    else:
        dvc(root, "init", "--quiet", "--no-scm")
    return root


def dvc(root: Path, *arguments: str) -> None:
    # Global DVC settings of whoever runs this would change where DVC keeps things.
    environment = os.environ | {
        "DVC_NO_ANALYTICS": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(root),
        "DVC_SYSTEM_CONFIG_DIR": str(root),
        "DVC_SITE_CACHE_DIR": str(root.parent / "site"),
    }
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_is_what_dvc_add_and_dvc_repro_record(repository: Path, dataset: Dataset) -> None:
    before = dvc_hash(dataset.folder)
    shutil.copytree(dataset.folder, repository / "added")
    dvc(repository, "add", "--quiet", "added")
    (added,) = yaml.safe_load((repository / "added.dvc").read_text())["outs"]
    assert before == added["md5"] == dvc_hash(repository / "added")

    stage = {"cmd": f"cp -r {dataset.folder} made", "outs": ["made"]}
    (repository / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"prepare_data": stage}}))
    dvc(repository, "repro", "--quiet")
    (made,) = yaml.safe_load((repository / "dvc.lock").read_text())["stages"]["prepare_data"]["outs"]
    assert made["md5"] == before == dvc_hash(repository / "made")


def test_names_and_folders_of_all_kinds_are_hashed_as_dvc_does(repository: Path) -> None:
    folder = repository / "added"
    for name in ("a", "a.b/c", "a-b/c", "a b/.hidden", "é/ü", "train/x/y/z", "train-x/1", "train.b", ".dot/empty"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name * (name != ".dot/empty"))
    dvc(repository, "add", "--quiet", "added")
    (added,) = yaml.safe_load((repository / "added.dvc").read_text())["outs"]
    assert dvc_hash(folder) == added["md5"]


def test_what_cannot_be_read_is_an_error_not_a_hash(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere is not a folder"):
        dvc_hash(tmp_path / "nowhere")
    (tmp_path / "link").symlink_to("nothing")
    with pytest.raises(FileNotFoundError):
        dvc_hash(tmp_path)


def test_it_changes_with_every_file_and_leaves_nothing_behind(dataset: Dataset, tmp_path: Path) -> None:
    folder = shutil.copytree(dataset.folder, tmp_path / "dataset")
    seen = {dvc_hash(folder)}
    assert seen == {dvc_hash(dataset.folder)}
    info = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(info))
    seen.add(dvc_hash(folder))
    (folder / "test" / "labels.npy").rename(folder / "test" / "labels2.npy")
    seen.add(dvc_hash(folder))
    assert len(seen) == 3
    assert all(value.endswith(".dir") and len(value) == 36 for value in seen)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_it_does_not_depend_on_the_current_folder(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = dvc_hash(dataset.folder)
    monkeypatch.chdir(dataset.folder.parent)
    assert dvc_hash(Path("dataset")) == expected
    monkeypatch.chdir(tmp_path)
    assert dvc_hash(dataset.folder) == expected
