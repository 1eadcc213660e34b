"""`dvc repro` in a copy of the repository: both branches of the gate, caching, and the hash in the model card."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from quick import REPOSITORY, plain_environment, quick_sections

from troika.releases.pointer import read_release


def checkout(folder: Path, *, promoted: bool) -> Path:
    """A Git repository with what this one tracks (or would track), and quick parameters."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).exists() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    (folder / "params.yaml").write_text(yaml.safe_dump(quick_sections(promoted=promoted)))
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


def dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = plain_environment()
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        ["dvc", *arguments], cwd=folder, env=environment, check=False, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = checkout(tmp_path_factory.mktemp("dvc"), promoted=True)
    finished = dvc(folder, "repro")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder


def test_a_promoted_model_is_published_and_released(reproduced: Path) -> None:
    (entry,) = (path.parent for path in (reproduced / ".troika" / "store").glob("*/sha256-*/manifest.json"))
    released = read_release(reproduced / ".troika" / "releases.git", "local")
    assert released is not None
    assert released.digest == entry.name.replace("-", ":")


def test_the_model_card_holds_the_hash_under_which_dvc_has_the_dataset(reproduced: Path) -> None:
    lock = yaml.safe_load((reproduced / "dvc.lock").read_text())
    (dataset,) = [out for out in lock["stages"]["prepare_data"]["outs"] if out["path"] == "artifacts/dataset"]
    assert f"`{dataset['md5']}`" in (reproduced / "artifacts" / "bundle" / "model_card.md").read_text()


def test_what_has_not_changed_is_not_run_again(reproduced: Path) -> None:
    # Once more evaluate is run: there is a champion now.
    again = dvc(reproduced, "repro")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Running stage 'evaluate'" in again.stdout
    assert "is already released" in again.stdout
    finished = dvc(reproduced, "repro")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    for name in ("prepare_data", "train", "export_model", "train_evaluator", "evaluate"):
        assert f"Stage '{name}' didn't change, skipping" in finished.stdout
    assert "is already released" in finished.stdout


def test_a_rejection_is_a_result_and_stops_before_the_store(tmp_path: Path) -> None:
    folder = checkout(tmp_path, promoted=False)
    somebody = ["-c", "user.name=n", "-c", "user.email=n@example"]
    for command in (["add", "--all"], ["commit", "--quiet", "--message", "all"]):
        subprocess.run(["git", *somebody, *command], cwd=folder, check=True)
    before = (folder / "params.yaml").read_text()
    finished = dvc(folder, "exp", "run", "--set-param", "train.seed=1", "--temp", "--name", "other-seed")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert (folder / "params.yaml").read_text() == before
    shown = json.loads(dvc(folder, "exp", "show", "--json").stdout)
    assert '"other-seed"' in json.dumps(shown)
    assert '"promoted": false' in json.dumps(shown)
    finished = dvc(folder, "repro")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "Rejected: " in finished.stdout
    assert "the verdict is 'reject', not 'promote'" in finished.stdout
    assert "Traceback" not in finished.stdout + finished.stderr
    assert "not published: " in finished.stdout
    assert "not released: it was not published" in finished.stdout
    for name in ("published", "release"):
        assert "'reject'" in json.loads((folder / "artifacts" / f"{name}.json").read_text())["reason"]
    assert not list((folder / ".troika").glob("store/*/sha256-*"))
    assert read_release(folder / ".troika" / "releases.git", "local") is None
    assert (folder / "artifacts" / "evaluation.html").exists()
