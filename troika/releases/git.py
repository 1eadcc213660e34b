"""One branch of a Git remote, read and extended through the `git` command, without a working tree.

Working on Git's objects alone, neither links, hooks, filters nor line endings of the repository matter. Does
not know what a release is; pointer.py does.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path

from troika.credentials import without_credentials
from troika.errors import ReleaseError

_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_SECONDS = 120
# Answers of a server that has just taken, or is just taking, another push.
_LOST_RACE = ("[rejected]", "cannot lock ref", "failed to update ref", "incorrect old value")


@dataclass(frozen=True)
class Change:
    """A commit that changed a file."""

    commit: str
    when: datetime
    author: str
    text: str | None
    """The file after it; None if it removed the file."""


class Repository:
    """A bare repository without history, beside one branch of a remote."""

    def __init__(self, folder: Path, remote: str, branch: str) -> None:
        self._folder, self._remote, self._branch = folder, remote, branch
        self.shown = without_credentials(remote)
        self._options = [
            *("-c", "core.hooksPath=/dev/null", "-c", "push.gpgSign=false", "-c", "commit.gpgSign=false"),
            *("-c", "gc.auto=0", "-c", "push.followTags=false", "-c", "push.recurseSubmodules=no"),
            # What lives for one release needs no care; a pack is kept as it came, not taken apart into files.
            *("-c", "maintenance.auto=false", "-c", "fetch.unpackLimit=1"),
        ]

    @classmethod
    @contextmanager
    def of(cls, remote: str | Path, branch: str) -> Iterator["Repository"]:
        """A temporary one.

        Raises:
            ReleaseError: the remote or the branch is not something git could be given, or git is missing.
        """
        if str(remote).startswith("-") or not str(remote):
            raise ReleaseError(f"Git remote {str(remote)!r} is not usable: give a URL or a path")
        if not _BRANCH.fullmatch(branch):
            raise ReleaseError(f"branch {branch!r} is not usable: give a plain name, such as main")
        if "://" not in str(remote) and Path(remote).exists():
            remote = Path(remote).absolute()  # git runs in another folder
        with tempfile.TemporaryDirectory(prefix="troika-release-") as folder:
            repository = cls(Path(folder), str(remote), branch)
            repository.git("init", "--quiet", "--bare", "--template=", folder)
            yield repository

    def pull(self, *, whole: bool = False) -> str:
        """Fetch the branch's head, or its whole history; returns the head's commit."""
        depth = () if whole else ("--depth=1",)
        # Into a reference, so that fetching again brings only what is new.
        wanted = f"+refs/heads/{self._branch}:refs/pulled"
        self.git("fetch", "--quiet", "--no-tags", *depth, "--", self._remote, wanted)
        return (self._folder / "FETCH_HEAD").read_text(encoding="utf-8").split()[0]

    def changes(self, path: str) -> list[Change]:
        """The commits of a whole history that changed a file, newest first."""
        log = self.git("log", "--format=%H%x09%ct%x09%an", "FETCH_HEAD", "--", path)
        lines = [line.split("\t", 2) for line in log.splitlines()]
        texts = self._texts([f"{commit}:{path}" for commit, _, _ in lines])
        return [
            Change(commit, datetime.fromtimestamp(int(seconds), UTC), author, text)
            for (commit, seconds, author), text in zip(lines, texts, strict=True)
        ]

    def since(self, commit: str, most: int) -> list[str]:
        """Return the newest commits of a whole history after `commit`, each as its short hash and its subject."""
        log = self.git("log", "--format=%h %s", f"--max-count={most}", f"{commit}..FETCH_HEAD")
        return log.splitlines()

    def read(self, path: str) -> str | None:
        """Text of a file at the fetched head; None if there is no such file."""
        return self._texts([f"FETCH_HEAD:{path}"])[0]

    def _texts(self, names: list[str]) -> list[str | None]:
        """Contents of files, each named `<commit>:<path>`, by one call of git; None where there is none."""
        answer = self._run("cat-file", "--batch", stdin="".join(f"{name}\n" for name in names).encode())
        texts: list[str | None] = []
        while answer:
            head, _, answer = answer.partition(b"\n")
            if head.endswith(b" missing"):
                texts.append(None)
                continue
            _, kind, size = head.split()
            texts.append(answer[: int(size)].decode("utf-8", "replace") if kind == b"blob" else None)
            answer = answer[int(size) + 1 :]
        return texts

    def files(self, pattern: str) -> list[str]:
        """Paths at the fetched head that match a shell pattern."""
        names = self.git("ls-tree", "-r", "-z", "--name-only", "FETCH_HEAD").split("\0")
        return [name for name in names if fnmatch(name, pattern)]

    def commit(self, parent: str | None, path: str, text: str, message: str) -> str:
        """A commit on `parent` in which only `path` differs."""
        self.git("read-tree", *(["--empty"] if parent is None else [parent]))
        blob = self.git("hash-object", "-w", "--stdin", stdin=text).strip()
        self.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
        parents = [] if parent is None else ["-p", parent]
        tree = self.git("write-tree").strip()
        return self.git(*self._identity(), "commit-tree", tree, *parents, "-m", message).strip()

    def push(self, commit: str) -> str | None:
        """None if the remote took the commit, else the words in which it refused because of another push."""
        try:
            self.git("push", "--porcelain", "--", self._remote, f"{commit}:refs/heads/{self._branch}")
        except ReleaseError as error:
            if any(words in str(error) for words in _LOST_RACE):
                return str(error)
            # The server may have said it in other words, or the connection broke: the branch itself knows.
            listed = self.git("ls-remote", "--", self._remote, f"refs/heads/{self._branch}").split()
            if listed[:1] == [self.git("rev-parse", f"{commit}^").strip()]:
                raise
            return str(error)
        return None

    def rehearse_push(self, commit: str) -> None:
        """Ask the remote whether it would take a commit, and send nothing.

        Raises:
            ReleaseError: it would not, in its words.
        """
        self.git("push", "--dry-run", "--porcelain", "--", self._remote, f"{commit}:refs/heads/{self._branch}")

    def _identity(self) -> list[str]:
        entries = [entry.partition("\n") for entry in self.git("config", "--null", "--list").split("\0")]
        known = {key for key, _, value in entries if value.strip()}
        fallback = {"user.name": "Troika", "user.email": "troika@localhost"}
        return [part for key, value in fallback.items() if key not in known for part in ("-c", f"{key}={value}")]

    def git(self, *arguments: str, stdin: str = "") -> str:
        """Run git in this repository; returns what it prints.

        Raises:
            ReleaseError: git is missing, fails, or takes longer than two minutes.
        """
        return self._run(*arguments, stdin=stdin.encode()).decode("utf-8", "replace")

    def _run(self, *arguments: str, stdin: bytes) -> bytes:
        try:
            done = subprocess.run(
                ["git", *self._options, *arguments],
                cwd=self._folder,
                env=isolated_environment(os.environ),
                input=stdin,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise ReleaseError(
                "the command `git` is not installed, and a release is a Git commit; install git"
            ) from None
        except subprocess.TimeoutExpired:
            raise ReleaseError(f"Git remote {self.shown} did not answer in {_SECONDS} s") from None
        if done.returncode != 0:
            said = b"\n".join((done.stderr.strip(), done.stdout.strip())).strip().decode("utf-8", "replace")
            words = without_credentials(said)
            raise ReleaseError(f"Git remote {self.shown}, branch {self._branch}: git said: {words}")
        return done.stdout


def isolated_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The user's environment (proxies, ssh agent), less what would point git elsewhere, ask or trace."""
    kept = (
        "GIT_SSH",
        "GIT_ASKPASS",
        "GIT_CONFIG",
        "GIT_AUTHOR",
        "GIT_COMMITTER",
        "GIT_EXEC_PATH",
        "GIT_HTTP",
        "GIT_PROXY",
        "GIT_SSL",
    )
    names = [name for name in inherited if not name.startswith("GIT_") or name.startswith(kept)]
    environment = {name: inherited[name] for name in names}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", "LANGUAGE": "C"}
    if "GIT_SSH" not in environment:
        environment.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
    return environment
