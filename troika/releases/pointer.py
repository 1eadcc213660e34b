"""The Git pointer: which model an environment should serve stands in one file of one Git branch.

A release is one commit on top of what was current, pushed without force: of two releases at once exactly one
wins. Does not publish models and never talks to a cluster.
"""

import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from troika.errors import ReleaseError, SupersededError
from troika.releases.git import Repository
from troika.releases.manifest import DIGEST, MODEL_NAME
from troika.releases.store import PublishedModel

_Digest = Annotated[str, StringConstraints(pattern=rf"^{DIGEST.pattern}$")]
_FILE = "manifests/serving/overlays/{}/release.yaml"
# What stands in the file of an environment before its first release, since kustomize must find a file.
_NOT_YET = "0"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


class Release(BaseModel):
    """What one environment should serve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, StringConstraints(pattern=rf"^{MODEL_NAME.pattern}$")]
    version: Annotated[int, Field(gt=0)]
    """Counts the releases of an environment and is never given twice; the digest, not this, is the identity."""
    digest: _Digest
    previous_digest: _Digest | None
    verdict_sha256: Annotated[str, StringConstraints(pattern=r"^(sha256:)?[0-9a-f]{64}$")]
    store: Annotated[str, Field(min_length=1)]
    dataset: str = ""
    """Content hash of the dataset that the model was trained on; empty where it is not known."""
    dataset_source: str = ""
    """Where that came from, the DVC revision included."""


@dataclass(frozen=True)
class Released:
    """One state that an environment's pointer had."""

    release: Release
    commit: str
    when: datetime
    author: str
    text: str
    """The whole file."""


def release_file(environment: str) -> str:
    """Path of the pointer inside the repository.

    Raises:
        ReleaseError: the environment's name is not one of lower-case letters, digits and `-`.
    """
    if not _NAME.fullmatch(environment):
        raise ReleaseError(
            f"environment {environment!r} is not usable: lower-case letters, digits and - (staging)"
        )
    return _FILE.format(environment)


def read_release(remote: str | Path, environment: str, branch: str = "main") -> Release | None:
    """What `environment` should serve by the head of `branch`; None before its first release.

    Raises:
        ReleaseError: the remote cannot be read (git's words), or the file is not valid (names the key).
    """
    with Repository.of(remote, branch) as repository:
        repository.pull()
        return _read(repository, release_file(environment))


def read_history(remote: str | Path, environment: str, branch: str = "main") -> list[Released]:
    """All that `environment` was pointed to, newest first.

    Raises:
        ReleaseError: the remote cannot be read (git's words). A file that was not valid is left out.
    """
    with Repository.of(remote, branch) as repository:
        repository.pull(whole=True)
        return _history(repository, release_file(environment))


def commits_since(remote: str | Path, environment: str, branch: str = "main", most: int = 10) -> list[str]:
    """Return the newest commits after the current release of `environment`, as short hash and subject.

    Raises:
        ReleaseError: the remote cannot be read (git's words).
    """
    with Repository.of(remote, branch) as repository:
        repository.pull(whole=True)
        released = repository.changes(release_file(environment))
        return repository.since(released[0].commit, most) if released else []


def read_environments(remote: str | Path, branch: str = "main") -> list[str]:
    """Names of all environments that have a release.

    Raises:
        ReleaseError: the remote cannot be read (git's words).
    """
    with Repository.of(remote, branch) as repository:
        repository.pull()
        return sorted(path.split("/")[-2] for path in repository.files(_FILE.format("*")))


def release(
    remote: str | Path,
    environment: str,
    published: PublishedModel,
    verdict_sha256: str,
    *,
    replace: bool = False,
    branch: str = "main",
    attempts: int = 5,
) -> tuple[Release, str, bool]:
    """Point `environment` to a published model, by one commit that changes only its release.yaml.

    Other commits that arrive meanwhile are built upon; another *release* that arrives meanwhile is respected.

    Args:
        remote: the Git remote that holds the pointer.
        environment: such as `production`; it serves one model.
        published: what is to be served.
        verdict_sha256: the verdict that allows it.
        replace: whether it may take the place of a model of another name.
        branch: the remote's branch.
        attempts: pushes, where other commits keep arriving.

    Returns:
        the release that is current now, the commit at the head of the branch, and whether that commit is new
        (False: this digest was current already).

    Raises:
        SupersededError: another digest became current after this call had started.
        ReleaseError: a model of another name is served there and `replace` is false; the remote refuses or cannot
            be reached (in git's own words); or `attempts` are used up.
    """

    def is_done(current: Release) -> bool:
        return (current.model, current.digest) == (published.model, published.digest)

    def decide(current: Release | None, history: list[Released]) -> _Move:
        check_name(environment, current, published.model, replace=replace)
        # Not the current one's: after a revert that number has been used already.
        version = max((past.release.version for past in history), default=0) + 1
        new = _next(current, published, verdict_sha256, version)
        return _Move(new, _to_yaml(environment, new), _message(environment, new))

    return _move(remote, environment, is_done, decide, branch, attempts, f"{published.digest} was being released")


def check_name(environment: str, current: Release | None, model: str, *, replace: bool) -> None:
    """Raise ReleaseError if `environment` serves a model of another name than `model`, and `replace` is false."""
    if current is not None and current.model != model and not replace:
        raise ReleaseError(
            f"{environment} serves {current.model}, and a release of {model} would take it away from its clients: "
            "release to another environment (TROIKA_ENVIRONMENT), or give --replace (release_model.replace=true)"
        )


def last_of_each_model(history: Sequence[Released]) -> dict[str, Release]:
    """Return what was current last under each model's name, from a history that begins with the newest."""
    return {past.release.model: past.release for past in reversed(history)}


def rollback(
    remote: str | Path,
    environment: str,
    version: int | None = None,
    *,
    only_from: str | None = None,
    branch: str = "main",
    attempts: int = 5,
) -> tuple[Release, str, bool]:
    """Point `environment` back, by a commit that makes release.yaml what it was, byte by byte, as a revert does.

    Args:
        remote: the Git remote that holds the pointer.
        environment: such as `production`.
        version: which release to go back to; None, to what the current one had replaced.
        only_from: digest that must be current, as where a machine decides; None, whatever is.
        branch: the remote's branch.
        attempts: pushes, where other commits keep arriving.

    Returns:
        as `release`; the commit is not new where that version is current already.

    Raises:
        SupersededError: another digest became current after this call had started, or is not `only_from`.
        ReleaseError: there is no such version, or nothing to go back to; or as for `release`.
    """

    def is_done(current: Release) -> bool:
        return version == current.version

    def decide(current: Release | None, history: list[Released]) -> _Move:
        if current is None:
            raise ReleaseError(f"nothing has been released to {environment}, so there is nothing to go back to")
        if only_from not in {None, current.digest}:
            raise SupersededError(f"{environment} was moved from {only_from} to {current.digest} already")
        known = {past.release.version: past for past in reversed(history)}
        before = replaced(current, history)
        if version is None and before is None:
            raise ReleaseError(
                f"{environment} serves version {current.version}, and there is none before it; "
                "see `troika releases`, or give --version"
            )
        wanted = before.release.version if version is None and before is not None else version
        if wanted not in known:
            raise ReleaseError(f"{environment} never had a version {wanted}; it had {_ranges(known)}")
        back = known[wanted]
        message = (
            f"Roll {environment} back to {back.release.model} {wanted}\n\n"
            f"Digest: {back.release.digest}\nFrom: {current.digest} (version {current.version})\n"
            f"As it was in {back.commit}\n"
        )
        return _Move(back.release, back.text, message)

    return _move(remote, environment, is_done, decide, branch, attempts, "it was being rolled back")


def replaced(current: Release, history: Sequence[Released]) -> Released | None:
    """What `current` had replaced: between the two may be some that were taken back. None: it was the first."""
    earlier = [past for past in reversed(history) if past.release.version < current.version]
    exact = [past for past in earlier if past.release.digest == current.previous_digest]
    return max(exact or earlier, key=lambda past: past.release.version, default=None)


@dataclass(frozen=True)
class _Move:
    release: Release
    text: str
    message: str


def _move(
    remote: str | Path,
    environment: str,
    is_done: Callable[[Release], bool],
    decide: Callable[[Release | None, list[Released]], _Move],
    branch: str,
    attempts: int,
    meanwhile: str,
) -> tuple[Release, str, bool]:
    """Compare-and-set: commit what `decide` says on top of the head, unless another release was made meanwhile."""
    path = release_file(environment)
    with Repository.of(remote, branch) as repository:
        head = repository.pull(whole=True)
        started_from = current = _read(repository, path)
        for attempt in range(1, attempts + 1):
            # First, since what is wanted may have become current through another.
            if current is not None and is_done(current):
                return current, head, False
            if (current and current.digest) != (started_from and started_from.digest):
                found = current.digest if current else "nothing"
                raise SupersededError(
                    f"{environment} was moved to {found} while {meanwhile}; evaluate against it and try again"
                )
            move = decide(current, _history(repository, path))
            commit = repository.commit(head, path, move.text, move.message)
            refused = repository.push(commit)
            if refused is None:
                return move.release, commit, True
            head = repository.pull(whole=True)
            if head == commit:  # It was taken, though the connection broke before the answer.
                return move.release, commit, True
            current = _read(repository, path)
            if attempt < attempts:
                # Jitter keeps competitors from meeting again and again.
                time.sleep(random.uniform(0.05, 0.3) * attempt)  # noqa: S311
    raise ReleaseError(f"{repository.shown}: {attempts} pushes were rejected because of other commits: {refused}")


def _history(repository: Repository, path: str) -> list[Released]:
    found = []
    for change in repository.changes(path):
        if change.text is None:
            continue
        with suppress(ReleaseError):
            if (state := _from_yaml(change.text, path)) is None:
                continue
            found.append(Released(state, change.commit, change.when, change.author, change.text))
    return found


def _ranges(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def ensure_local_remote(path: Path) -> Path:
    """Make a bare repository that plays the GitOps remote, with one commit on `main`, unless it is there.

    Raises:
        ReleaseError: the path holds something else or cannot be written.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        except OSError as error:
            raise ReleaseError(f"cannot make the Git remote {path}: {error.strerror}; give another path") from None
        try:
            repository = Repository(new, str(path), "main")
            repository.git("init", "--quiet", "--bare", str(new))
            repository.git("symbolic-ref", "HEAD", "refs/heads/main")
            text = "# Deployments\n\nWhat each environment serves; the cluster follows this repository.\n"
            commit = repository.commit(None, "README.md", text, "Begin the deployment repository")
            repository.git("update-ref", "refs/heads/main", commit)
            new.chmod(0o755)
            # Fails if somebody else has just made it, and theirs is as good.
            new.rename(path)
        except OSError:
            pass
        finally:
            shutil.rmtree(new, ignore_errors=True)
    with Repository.of(path, "main") as repository:
        repository.pull()
    return path


def _read(repository: Repository, path: str) -> Release | None:
    text = repository.read(path)
    return None if text is None else _from_yaml(text, f"{repository.shown}: {path}")


def _next(current: Release | None, published: PublishedModel, verdict_sha256: str, version: int) -> Release:
    try:
        return Release(
            model=published.model,
            version=version,
            digest=published.digest,
            previous_digest=current.digest if current else None,
            verdict_sha256=verdict_sha256,
            store=published.store,
            dataset=published.dataset,
            dataset_source=published.dataset_source,
        )
    except ValidationError as error:
        raise ReleaseError(f"the release is not valid: {_problems(error)}") from None


def _message(environment: str, new: Release) -> str:
    dataset = f"Dataset: {new.dataset} ({new.dataset_source})\n" if new.dataset else ""
    return (
        f"Release {new.model} {new.version} to {environment}\n\n"
        f"Digest: {new.digest}\nPrevious: {new.previous_digest or 'none'}\nVerdict: {new.verdict_sha256}\n"
        f"{dataset}"
    )


def _to_yaml(environment: str, new: Release) -> str:
    data = {
        "model": new.model,
        "version": str(new.version),
        "digest": new.digest,
        "previousDigest": new.previous_digest or "",
        "verdictSha256": new.verdict_sha256,
        "store": new.store,
        **({"dataset": new.dataset, "datasetSource": new.dataset_source} if new.dataset else {}),
    }
    # local-config: kustomize reads it, the cluster never gets it.
    annotations = {"config.kubernetes.io/local-config": "true"}
    document = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "model-release", "annotations": annotations},
        "data": data,
    }
    head = f"# What {environment} serves. Written by release_model; undo a release with `git revert`.\n"
    return head + yaml.safe_dump(document, sort_keys=False, width=1000)


def _from_yaml(text: str, where: str) -> Release | None:
    try:
        data = yaml.safe_load(text)["data"]
        if data.get("version") == _NOT_YET:
            return None
        names = {
            "previousDigest": "previous_digest",
            "verdictSha256": "verdict_sha256",
            "datasetSource": "dataset_source",
        }
        values = {names.get(key, key): value for key, value in data.items()}
        return Release.model_validate({**values, "previous_digest": values.get("previous_digest") or None})
    except ValidationError as error:
        raise ReleaseError(f"{where} is not valid: {_problems(error)}") from None
    except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise ReleaseError(f"{where} is not a ConfigMap with a release in `data`: {error!r}") from None


def _problems(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']} (got {p['input']!r})" for p in error.errors())
