"""Git repositories in which DVC tracks images."""

import os
import subprocess
from pathlib import Path

import pytest


def apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep DVC from this machine's own settings."""
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(folder / "site"))
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(folder / "global"))


def git(folder: Path, *arguments: str) -> str:
    names = {f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return subprocess.run(
        ["git", *arguments], cwd=folder, env={**os.environ, **names}, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "Images")


def begin(folder: Path, *tracked: str, subdir: str = "") -> Path:
    """Make a repository of a folder, and let DVC track some paths in it, or in a DVC repository within it."""
    from dvc.repo import Repo

    git(folder, "init", "--quiet", "--initial-branch=main")
    with Repo.init(str(folder / subdir), subdir=bool(subdir)) as repo:
        for path in tracked:
            repo.add(str(folder / subdir / path), glob=False)
    commit(folder)
    return folder


def add(folder: Path, path: str) -> None:
    """Track what has changed at a path, push it and commit."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        repo.add(str(folder / path), glob=False)
        repo.push()
    commit(folder)


def add_remote(folder: Path, url: str) -> None:
    with (folder / ".dvc" / "config").open("a") as file:
        file.write(f"[core]\n    remote = store\n['remote \"store\"']\n    url = {url}\n")


def push(folder: Path, url: str, subdir: str = "") -> None:
    """To the remote, which is then all that has the bytes."""
    from dvc.repo import Repo

    add_remote(folder / subdir, url)
    commit(folder)
    with Repo(str(folder / subdir)) as repo:
        assert repo.push() > 0
    forget(folder / subdir)


def forget(folder: Path) -> None:
    """Empty DVC's cache."""
    for path in sorted((folder / ".dvc" / "cache").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
