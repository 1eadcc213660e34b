"""What an error of DVC, of Git or of what is below them means: one sentence that says what to do."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from troika.credentials import without_credentials
from troika.errors import DatasetError, TroikaError

_SAY_NOTHING = {"CloneError", "DataIndexDirError", "FileMissingError", "CollectCacheError"}
"""Errors whose cause says more."""
_DENIED = re.compile(
    r"\b(401|403)\b|forbidden|unauthorized|access denied|credentials|invalidaccesskey|permission denied"
    r"|authentication|signaturedoesnotmatch|not authorized"
)
_UNREACHABLE = re.compile(r"could not connect|cannot connect|failed to resolve|unreachable|timed out|no route to")


@dataclass
class Reading:
    """What is being read, for the sentence."""

    repo: str
    rev: str
    path: str = ""
    remote: str = ""
    """Name and URL of the DVC remote, once they are known."""
    if_missing: str = "was it pushed there? Run `dvc push` where the data lie"
    """What to do where the remote has not got the data."""

    def __str__(self) -> str:
        what = f"{self.path} of {shown(self.repo)}" if self.path else shown(self.repo)
        return f"{what} at revision {self.rev}" + (f" from {self.remote}" if self.remote else "")


@contextmanager
def explained(reading: Reading) -> Iterator[None]:
    """Raise a DatasetError of one sentence for whatever goes wrong in the block.

    Any exception is caught, for what DVC calls has dozens of classes without a common one: those of Git in two
    implementations, of each cloud, of HTTP. Only calls of DVC belong into the block.
    """
    try:
        yield
    except TroikaError:
        raise
    except RecursionError:
        raise DatasetError(f"{reading} is refused: its folders contain themselves") from None
    except Exception as error:
        causes = _causes(error)
        words = without_credentials(_words(causes))
        raise DatasetError(f"cannot read {reading}: {words}; {_advice(causes, reading)}") from None


def shown(repo: str) -> str:
    """The repository as it may be told to anyone: a URL without user and password, a folder by its name."""
    try:
        # Without what may be a secret first: a slash in a password would make a host and a port of its beginning.
        parts = urlsplit(without_credentials(repo))
        port = parts.port
    except ValueError:
        return without_credentials(repo)
    if not parts.scheme or parts.scheme == "file":
        if "@" in repo and ":" in repo and not Path(repo).exists():
            return repo  # git@host:path: the user is no secret
        return Path(parts.path or repo).resolve().name
    host = parts.hostname or ""
    return urlunsplit((parts.scheme, f"{host}:{port}" if port else host, parts.path, "", ""))


def read_remote(repo: Any, reading: Reading) -> None:
    """Note the default remote of an opened repository."""
    name = repo.config.get("core", {}).get("remote")
    about = repo.config.get("remote", {}).get(name)
    if name is None or name == "auto-generated-upstream":
        reading.remote = ""
        reading.if_missing = (
            "it names no default remote: run `dvc remote add --default NAME URL` and `dvc push`, and push to Git"
        )
    elif about is None:
        reading.remote = f"remote {name}, which its .dvc/config does not describe"
        reading.if_missing = "mend it with `dvc remote add` or `dvc remote default`, and push to Git"
    else:
        url = _written_url(repo, name) or str(about.get("url", ""))
        reading.remote = f"remote {name} ({without_credentials(url)})"
        if url and "://" not in url and not Path(url).is_absolute():
            reading.if_missing = (
                "its URL is a path relative to the repository, which is somewhere else once it is cloned; "
                "give the remote an absolute path or URL"
            )


def _written_url(repo: Any, name: str) -> str:
    """Return the URL as .dvc/config has it; a relative path is made absolute when DVC reads it."""
    from configobj import ConfigObj  # noqa: PLC0415

    try:
        with repo.fs.open(repo.fs.join(repo.root_dir, ".dvc", "config"), encoding="utf-8") as file:
            content = ConfigObj(file.read().splitlines())
        return str(content[f'remote "{name}"']["url"])
    except (KeyError, OSError):
        return ""  # in another file, or given in the environment


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what has led to it, the first cause last."""
    causes: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in causes:
        causes.append(at)
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return causes


def _words(causes: list[BaseException]) -> str:
    # Of a failed connection the innermost knows which; what is around it repeats itself over lines.
    for cause in reversed(causes):
        if isinstance(cause, ConnectionError | socket.gaierror | TimeoutError):
            return _one_line(cause)
    saying = [cause for cause in causes if type(cause).__name__ not in _SAY_NOTHING and _one_line(cause)]
    return _one_line((saying or causes)[0])


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_LONGEST_WORDS] or type(error).__name__


_LONGEST_WORDS = 300


def _advice(causes: list[BaseException], reading: Reading) -> str:
    text = " ".join(str(cause) for cause in causes).lower()
    names = {type(cause).__name__ for cause in causes}

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    folder = reading.repo.removeprefix("file://")
    answers = (
        ("not owned by" in text, f"if you trust its owner: git config --global --add safe.directory {folder}"),
        ("RevError" in names, "give a tag, branch or commit that is there; tags are pushed by `git push --tags`"),
        (
            "not a git repository" in text or "NotGitRepository" in names,
            "dvc.repo must be the URL or folder of a Git repository",
        ),
        (has(ImportError), "install that, or use a remote of another kind"),
        (
            has(PermissionError) or bool(_DENIED.search(text)),
            "are there credentials for it in the environment? docs/guides/data-versions.md says which",
        ),
        (
            has(ConnectionError, socket.gaierror, TimeoutError)
            or (bool(_UNREACHABLE.search(text)) and not has(FileNotFoundError)),
            "is the address right, and can it be reached from here?",
        ),
        (has(FileNotFoundError, KeyError) or "NoRemoteError" in names, reading.if_missing),
    )
    return next((words for fits, words in answers if fits), "mend it there, or run `dvc get` to see more")
