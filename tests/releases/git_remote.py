"""What tests do to a Git remote of releases: a colleague's commits and reverts, pushes that wait for others."""

import shutil
import subprocess
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from troika.releases.store import PublishedModel

VERDICT = "sha256:" + "e" * 64
FILE = "manifests/serving/overlays/staging/release.yaml"


def published(letter: str, model: str = "tiny") -> PublishedModel:
    return PublishedModel(model, "sha256:" + letter * 64, "file:///store", created=True)


def git(*arguments: str, cwd: Path) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True, text=True
    ).stdout


def commit_other_file(remote: Path, name: str = "other.txt") -> None:
    """A colleague's commit."""
    clone = remote.parent / f"clone-{time.monotonic_ns()}"
    git("clone", "--quiet", str(remote), str(clone), cwd=remote.parent)
    (clone / name).parent.mkdir(parents=True, exist_ok=True)
    (clone / name).write_text("hello\n")
    git("add", ".", cwd=clone)
    git("commit", "--quiet", "-m", "Other work", cwd=clone)
    git("push", "--quiet", cwd=clone)
    shutil.rmtree(clone)


def hold_pushes(remote: Path) -> Path:
    """Make the remote keep every push waiting until the returned file exists."""
    go = remote.parent / "go"
    hook = remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f'#!/bin/sh\ntouch "{remote.parent}/waiting-$$"\nwhile [ ! -e "{go}" ]; do sleep 0.01; done\n')
    hook.chmod(0o755)
    return go


def wait_for_pushes(remote: Path, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(list(remote.parent.glob("waiting-*"))) < count:
        assert time.monotonic() < deadline, "the pushes did not arrive"
        time.sleep(0.01)


def outcome(future: Future[Any]) -> Any:
    return future.exception() or future.result()


def state_of(remote: Path) -> str:
    return git("show", f"main:{FILE}", cwd=remote)


def revert(remote: Path, commit: str = "HEAD") -> None:
    """As a person does it, with git alone."""
    clone = remote.parent / f"clone-{time.monotonic_ns()}"
    git("clone", "--quiet", str(remote), str(clone), cwd=remote.parent)
    git("revert", "--no-edit", commit, cwd=clone)
    git("push", "--quiet", cwd=clone)
    shutil.rmtree(clone)
