"""What a model was made by: code commit, image, versions. What it was made from stands in its dataset."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from troika import __version__

_RECORDED_PACKAGES = (
    "torch",
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "tf2onnx",
    "onnx",
    "onnxruntime",
    "numpy",
)

_CODE = ("components", "pipelines", "troika", "requirements.lock")


def code_commit() -> str:
    """The commit of this code, `+changed` behind it where files differ from it.

    An image has no `.git`; its build puts the commit into `TROIKA_CODE_COMMIT`.
    """
    given = os.environ.get("TROIKA_CODE_COMMIT")
    if given:
        return given
    here = Path(__file__).parent
    try:
        # Installed into a virtual environment inside somebody's own checkout, this file is in no commit.
        _git(here, "ls-files", "--error-unmatch", Path(__file__).name)
        commit = _git(here, "rev-parse", "HEAD")
        changed = _git(here.parent, "status", "--porcelain", "--", *_CODE)
        return commit + ("+changed" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown: not a git checkout, and TROIKA_CODE_COMMIT is not set"


def image_digest() -> str:
    """The container image that runs this, from `TROIKA_IMAGE`; a laptop has none."""
    return os.environ.get("TROIKA_IMAGE", "none: not run in a container image")


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a model's weights and graph."""
    # Not by its name in the index of packages, which another version can be installed under.
    versions = {"python": platform.python_version(), "troika": __version__}
    for package in _RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()
