"""A model's record names the very code, image and versions that made it, or says that it cannot."""

import importlib.util
import platform
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from troika import lineage


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture(autouse=True)
def _no_build_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TROIKA_CODE_COMMIT", "TROIKA_IMAGE", "GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)


def lineage_at(package: Path) -> ModuleType:
    """The same code in another place: a file of a package folder that nobody else imports."""
    package.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(lineage.__file__, package / "lineage.py")
    spec = importlib.util.spec_from_file_location("lineage_elsewhere", package / "lineage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> tuple[Path, ModuleType]:
    """A repository with this module in it, and the module imported from there."""
    root = tmp_path / "checkout"
    module = lineage_at(root / "troika")
    (root / ".gitignore").write_text("__pycache__\n")
    for name in ("components/train.py", "pipelines/graph.py", "requirements.lock", "README.md", "params.yaml"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("first\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "First")
    return root, module


def test_a_clean_checkout_is_its_commit(checkout: tuple[Path, ModuleType]) -> None:
    root, module = checkout
    assert module.code_commit() == git(root, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    "name", ["troika/lineage.py", "components/train.py", "pipelines/graph.py", "requirements.lock"]
)
@pytest.mark.parametrize("staged", [True, False])
def test_changed_code_is_told(checkout: tuple[Path, ModuleType], name: str, staged: bool) -> None:
    root, module = checkout
    with (root / name).open("a") as file:
        file.write("# more\n")
    if staged:
        git(root, "add", name)
    assert module.code_commit() == git(root, "rev-parse", "HEAD") + "+changed"


def test_new_code_that_is_in_no_commit_is_told(checkout: tuple[Path, ModuleType]) -> None:
    root, module = checkout
    (root / "components" / "new.py").write_text("")
    assert module.code_commit().endswith("+changed")


@pytest.mark.parametrize("name", ["README.md", "params.yaml", "notes.txt", "tests/test_new.py"])
def test_files_that_are_no_code_of_the_model_do_not_count(checkout: tuple[Path, ModuleType], name: str) -> None:
    root, module = checkout
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("second\n")
    assert module.code_commit() == git(root, "rev-parse", "HEAD")


def test_an_image_brings_its_commit_with_it(
    checkout: tuple[Path, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, module = checkout
    monkeypatch.setenv("TROIKA_CODE_COMMIT", "abc123")
    assert module.code_commit() == "abc123"
    monkeypatch.setenv("TROIKA_CODE_COMMIT", "")
    assert len(module.code_commit()) == 40


def test_code_outside_git_says_so(tmp_path: Path) -> None:
    found = lineage_at(tmp_path / "troika").code_commit()
    assert found == "unknown: not a git checkout, and TROIKA_CODE_COMMIT is not set"


def test_a_machine_without_git_says_so(
    checkout: tuple[Path, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, module = checkout
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module.code_commit().startswith("unknown: ")


def test_somebody_elses_commit_is_not_taken_for_that_of_an_installed_package(
    checkout: tuple[Path, ModuleType],
) -> None:
    root, _ = checkout
    (root / ".gitignore").write_text(".venv\n")
    module = lineage_at(root / ".venv" / "lib" / "site-packages" / "troika")
    assert module.code_commit().startswith("unknown: ")


def test_the_image_is_told_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lineage.image_digest() == "none: not run in a container image"
    monkeypatch.setenv("TROIKA_IMAGE", "registry.test/troika@sha256:00")
    assert lineage.image_digest() == "registry.test/troika@sha256:00"


def test_versions_are_those_in_use_and_absent_packages_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = lineage.package_versions()
    assert versions["python"] == platform.python_version()
    assert versions["numpy"] == np.__version__
    assert {"troika", "torch", "onnx", "onnxruntime"} <= versions.keys()
    monkeypatch.setattr(lineage, "_RECORDED_PACKAGES", ("numpy", "no-such-package-anywhere"))
    assert lineage.package_versions().keys() == {"python", "troika", "numpy"}
