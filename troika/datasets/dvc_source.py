"""Data at a path of a DVC-tracked Git repository at a revision: fetched to disk, with what identifies it.

Needs neither a checkout nor a `.git` where it runs, so it works in a pod. Credentials come from the environment,
as DVC's remotes and Git read them; none is a parameter, and none is kept. Reads what `dvc get` reads, and compares
all bytes with the hashes under which DVC knows them.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from troika.datasets.contract import Origin
from troika.datasets.dvc_errors import Reading, explained, read_remote, shown
from troika.datasets.sources.source import bounded_map, sayable
from troika.errors import DatasetError, ParameterError

__all__ = ["fetch", "resolve", "shown"]

_AT_ONCE = 16
"""Downloads; each waits for the network most of its time."""
_HASH_NAMES = ("md5", "md5-dos2unix")
"""Of DVC 3, and of DVC 2."""


def fetch(repo: str, rev: str, path: str, folder: Path, beside: Sequence[str] = ()) -> tuple[Path, Origin]:
    """Copy what lies at `path` of `repo` at `rev` into `folder`.

    Args:
        repo: URL or folder of the Git repository.
        rev: tag, branch, commit, or what else Git takes for one.
        path: a file or folder in it, tracked by DVC or by Git; `.` is all.
        folder: exists and is empty.
        beside: names of files that are copied too, where they lie beside a file at `path`.

    Returns:
        where it lies now, and its origin (without a kind).

    Raises:
        ParameterError: `rev` or `path` is missing, or not within the repository.
        DatasetError: the repository, revision, path or remote cannot be read, or the remote holds other bytes than
            were pushed.
    """
    if not rev:
        raise ParameterError("dvc.rev: give a tag, a branch or a commit, so that the data can be found again")
    inside = PurePosixPath(path)
    if not path or inside.is_absolute() or ".." in inside.parts:
        raise ParameterError(
            f"path: {path!r} must be the path of a file or folder inside the repository {shown(repo)}"
        )
    if inside.suffix == ".dvc" or inside.name in {"dvc.yaml", "dvc.lock"}:
        raise ParameterError(f"path: {path} only points to data; give the data's own path, such as {inside.stem}")
    reading = Reading(repo, rev, path)
    source = "/" + "/".join(inside.parts)
    target = folder / (inside.name or PurePosixPath(shown(repo)).stem or "data")
    with explained(reading):
        files = _opened(repo, rev)
        commit = files.repo.get_rev()
        read_remote(files.repo, reading)
        info = _info(files, source, reading)
        if info["repo"] is not files.repo:
            read_remote(info["repo"], reading)
        if info["type"] == "directory":
            key = tuple(part for part in source.split("/") if part)
            _check_names(("/" + "/".join(found) for found, _ in _tracked(info["repo"], key)), source)
            _check_lists(info["repo"], key, reading)
            found = files.find(source, detail=True)
            _check_names(found, source)
            _copy(files, {name: target / name[len(source) :].lstrip("/") for name in found}, found, reading)
            target.mkdir(exist_ok=True)
        else:
            wanted = {source: target}
            for name in beside:
                other = f"{source.rpartition('/')[0]}/{name}"
                if files.exists(other):
                    wanted[other] = folder / name
            _copy(files, wanted, {name: files.info(name) for name in wanted}, reading)
    found_hash = _hash_of(info)
    return target, Origin(
        kind="",
        path=str(inside),
        repo=shown(repo),
        rev=rev,
        commit=str(commit),
        dvc_hash=found_hash[1] if found_hash else None,
    )


def resolve(repo: str, rev: str) -> str:
    """The commit that `rev` stands for now.

    Raises:
        DatasetError: the repository or revision cannot be read.
    """
    with explained(Reading(repo, rev)):
        return str(_opened(repo, rev).repo.get_rev())


def _opened(repo: str, rev: str) -> Any:
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    from dvc.api import DVCFileSystem  # noqa: PLC0415 - slow to import
    from dvc.repo.open_repo import clean_repos  # noqa: PLC0415

    if rev.startswith(("HEAD", "@")):
        # DVC keeps a clone for this process, whose HEAD is the revision that was asked for before.
        clean_repos()
    return DVCFileSystem(url=repo, rev=rev, subrepos=True)


def _info(files: Any, source: str, reading: Reading) -> dict[str, Any]:
    try:
        return dict(files.info(source))
    except FileNotFoundError:
        parent = source.rpartition("/")[0] or "/"
        names: list[str] = []
        with suppress(Exception):
            names = sorted(PurePosixPath(name).name for name in files.ls(parent, detail=False))
        there = f"; {parent} holds {', '.join(names[:10])}" if names else ""
        raise DatasetError(
            f"path: {shown(reading.repo)} has no {reading.path} at revision {reading.rev}{sayable(there)}"
        ) from None


def _hash_of(info: dict[str, Any]) -> tuple[str, str] | None:
    """Name and value of DVC's hash of a file or folder; None if Git itself holds it."""
    about = info.get("dvc_info") or {}
    return next(((name, str(about[name])) for name in _HASH_NAMES if about.get(name)), None)


def _copy(files: Any, wanted: dict[str, Path], infos: dict[str, dict[str, Any]], reading: Reading) -> None:
    """Copy files, several at once, and compare what DVC tracks with its hash."""
    from dvc_data.hashfile.hash import hash_file  # noqa: PLC0415 - slow to import
    from dvc_objects.fs.local import LocalFileSystem  # noqa: PLC0415

    local = LocalFileSystem()  # type: ignore[no-untyped-call]

    def copy(name: str) -> None:
        target = wanted[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        files.get_file(name, str(target))
        expected = None if infos[name].get("fs_info") else _hash_of(infos[name])
        if expected is None:
            return
        found = hash_file(str(target), local, expected[0])[1].value
        if found != expected[1]:
            raise DatasetError(
                f"{name[1:]} of {reading} is not what was pushed: its md5 is {found}, not {expected[1]}; "
                "restore it there, such as by `dvc push` after removing it from the remote"
            )

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in bounded_map(pool, copy, wanted, most=4 * _AT_ONCE):
            pass


def _tracked(repo: Any, key: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Paths of what DVC tracks below a path, as its lists in the remote have them, whoever wrote those."""
    prefix = tuple(part for part in repo.root_dir.split("/") if part)
    with suppress(KeyError):  # Git holds it itself
        for found, entry in repo.index.data["repo"].iteritems(key[len(prefix) :]):
            yield (*prefix, *found), entry


def _check_names(found: Iterable[str], root: str) -> None:
    """Raise DatasetError if a name would lead out of the folder that it is copied into."""
    for name in found:
        if {"..", ".", ""} & set(name[1:].split("/")) or not PurePosixPath(name).is_relative_to(root):
            raise DatasetError(f"the data is refused: {name!r} leads out of {root}")


def _check_lists(repo: Any, key: tuple[str, ...], reading: Reading) -> None:
    """Raise DatasetError if a list of a folder's files in the remote is not the one that was pushed."""
    prefix = tuple(part for part in repo.root_dir.split("/") if part)
    inside = key[len(prefix) :]
    for out in getattr(repo.index, "data_keys", {}).get("repo", ()):
        if out[: len(inside)] != inside and inside[: len(out)] != out:
            continue
        entries = dict(repo.index.data["repo"].iteritems(out))
        expected = getattr(entries[out].hash_info, "value", None) if out in entries else None
        if not expected or not expected.endswith(".dir"):
            continue
        listed = sorted(
            ("/".join(name[len(out) :]), entry.hash_info.value)
            for name, entry in entries.items()
            if name != out and entry.hash_info and not (entry.meta and entry.meta.isdir)
        )
        text = json.dumps([{"md5": value, "relpath": name} for name, value in listed], sort_keys=True)
        found = hashlib.md5(text.encode()).hexdigest() + ".dir"  # noqa: S324 - DVC's
        if found != expected:
            raise DatasetError(
                f"{reading} is refused: the list of files in {'/'.join(out)} is not what was pushed: its md5 is "
                f"{found}, not {expected}; restore it there"
            )
