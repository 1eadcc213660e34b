"""Data at a path of a DVC-tracked Git repository at a revision: fetched to disk, with what identifies it.

Needs neither a checkout nor a `.git` where it runs, so it works in a pod. Credentials come from the environment,
as DVC's remotes and Git read them; none is a parameter, and none is kept.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from troika.datasets.contract import Origin
from troika.errors import DatasetError, ParameterError


def fetch(repo: str, rev: str, path: str, folder: Path) -> tuple[Path, Origin]:
    """Copy what lies at `path` of `repo` at `rev` into `folder`.

    Args:
        repo: URL or folder of the Git repository.
        rev: tag, branch or commit.
        path: a file or folder in it, tracked by DVC or by Git.
        folder: exists and is empty.

    Returns:
        where it lies now, and its origin (without a kind).

    Raises:
        ParameterError: `rev` or `path` is missing, or not within the repository.
        DatasetError: the repository, revision, path or remote cannot be read, in DVC's own words.
    """
    if not rev:
        raise ParameterError("dvc.rev: give a tag, a branch or a commit, so that the data can be found again")
    inside = PurePosixPath(path)
    if not path or inside.is_absolute() or ".." in inside.parts:
        raise ParameterError(
            f"path: {path!r} must be the path of a file or folder inside the repository {shown(repo)}"
        )
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    from dvc.api import DVCFileSystem  # noqa: PLC0415 - slow to import
    from dvc.exceptions import DvcException  # noqa: PLC0415
    from scmrepo.exceptions import SCMError  # noqa: PLC0415

    target = folder / (inside.name or "data")
    source = f"/{inside}"
    try:
        files = DVCFileSystem(url=repo, rev=rev)
        commit = files.repo.get_rev()
        try:
            info = files.info(source)
        except FileNotFoundError:
            raise DatasetError(f"path: {shown(repo)} has no {path} at revision {rev}") from None
        if info["type"] == "directory":
            _check_names(_tracked(files.repo, inside), source)
            _check_names(files.find(source), source)
            files.get(source, str(target), recursive=True)
        else:
            files.get_file(source, str(target))
    except RecursionError:
        raise DatasetError(f"{path} of {shown(repo)} is refused: its folders contain themselves") from None
    except (DvcException, SCMError, OSError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(
            f"cannot read {path} of {shown(repo)} at revision {rev}: {_without_secrets(words, repo)}; "
            "is its remote there, with all that was to be pushed, and are there credentials for it?"
        ) from None
    dvc_info = info.get("dvc_info") or {}
    found = dvc_info.get("md5") or info.get("md5")
    return target, Origin(
        kind="", path=str(inside), repo=shown(repo), rev=rev, commit=str(commit), dvc_hash=found and str(found)
    )


def resolve(repo: str, rev: str) -> str:
    """The commit that `rev` stands for now.

    Raises:
        DatasetError: the repository or revision cannot be read.
    """
    from dvc.api import DVCFileSystem  # noqa: PLC0415 - slow to import
    from dvc.exceptions import DvcException  # noqa: PLC0415
    from scmrepo.exceptions import SCMError  # noqa: PLC0415

    try:
        return str(DVCFileSystem(url=repo, rev=rev).repo.get_rev())
    except (DvcException, SCMError, OSError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(
            f"cannot read {shown(repo)} at revision {rev}: {_without_secrets(words, repo)}"
        ) from None


def shown(repo: str) -> str:
    """The repository as it may be told to anyone: a URL without user and password, a folder by its name."""
    parts = urlsplit(repo)
    if not parts.scheme or parts.scheme == "file":
        if "@" in repo and ":" in repo and not Path(repo).exists():
            return repo  # git@host:path: the user is no secret
        return Path(parts.path or repo).resolve().name
    host = parts.hostname or ""
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path, "", ""))


def _without_secrets(text: str, repo: str) -> str:
    parts = urlsplit(repo)
    for secret in (parts.password, parts.username):
        if secret:
            text = text.replace(secret, "***")
    return text


def _tracked(repo: Any, inside: PurePosixPath) -> Iterator[str]:
    """Names of what DVC tracks below a path, as its list in the remote has them, whoever wrote that."""
    with suppress(KeyError):  # Git holds it itself
        for key, _ in repo.index.data["repo"].iteritems(inside.parts):
            yield "/" + "/".join(key)


def _check_names(found: Iterable[str], root: str) -> None:
    """Raise DatasetError if a name would lead out of the folder that it is copied into."""
    for name in found:
        if {"..", ".", ""} & set(name[1:].split("/")) or not PurePosixPath(name).is_relative_to(root):
            raise DatasetError(f"the data is refused: {name!r} leads out of {root}")
