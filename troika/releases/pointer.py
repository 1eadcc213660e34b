"""The Git pointer: which model an environment should serve stands in one file of one Git branch.

A release is one commit on top of what was current, pushed without force: of two releases at once exactly one
wins. Does not publish models and never talks to a cluster.
"""

import random
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from troika.errors import ReleaseError, SupersededError
from troika.releases.git import Repository
from troika.releases.manifest import DIGEST, MODEL_NAME
from troika.releases.store import PublishedModel

_Digest = Annotated[str, StringConstraints(pattern=rf"^{DIGEST.pattern}$")]
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


class Release(BaseModel):
    """What one environment should serve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, StringConstraints(pattern=rf"^{MODEL_NAME.pattern}$")]
    version: Annotated[int, Field(gt=0)]
    """Counts the releases of an environment; the digest, not this, is the model's identity."""
    digest: _Digest
    previous_digest: _Digest | None
    verdict_sha256: Annotated[str, StringConstraints(pattern=r"^(sha256:)?[0-9a-f]{64}$")]
    store: Annotated[str, Field(min_length=1)]


def release_file(environment: str) -> str:
    """Path of the pointer inside the repository.

    Raises:
        ReleaseError: the environment's name is not one of lower-case letters, digits and `-`.
    """
    if not _NAME.fullmatch(environment):
        raise ReleaseError(
            f"environment {environment!r} is not usable: lower-case letters, digits and - (staging)"
        )
    return f"manifests/serving/overlays/{environment}/release.yaml"


def read_release(remote: str | Path, environment: str, branch: str = "main") -> Release | None:
    """What `environment` should serve by the head of `branch`; None before its first release.

    Raises:
        ReleaseError: the remote cannot be read (git's words), or the file is not valid (names the key).
    """
    with Repository.of(remote, branch) as repository:
        repository.pull()
        return _read(repository, release_file(environment))


def release(
    remote: str | Path,
    environment: str,
    published: PublishedModel,
    verdict_sha256: str,
    *,
    branch: str = "main",
    attempts: int = 5,
) -> tuple[Release, str, bool]:
    """Point `environment` to a published model, by one commit that changes only its release.yaml.

    Other commits that arrive meanwhile are built upon; another *release* that arrives meanwhile is respected.

    Returns:
        the release that is current now, the commit at the head of the branch, and whether that commit is new
        (False: this digest was current already).

    Raises:
        SupersededError: another digest became current after this call had started.
        ReleaseError: the remote refuses or cannot be reached (in git's own words), or `attempts` are used up.
    """
    path = release_file(environment)
    with Repository.of(remote, branch) as repository:
        head = repository.pull()
        started_from = current = _read(repository, path)
        for attempt in range(1, attempts + 1):
            if current is not None and (current.model, current.digest) == (published.model, published.digest):
                return current, head, False
            if (current and current.digest) != (started_from and started_from.digest):
                found = current.digest if current else "nothing"
                raise SupersededError(
                    f"{environment} was moved to {found} while {published.digest} was being released; "
                    "evaluate against it before you release again"
                )
            new = _next(current, published, verdict_sha256)
            commit = repository.commit(head, path, _to_yaml(environment, new), _message(environment, new))
            refused = repository.push(commit)
            if refused is None:
                return new, commit, True
            head = repository.pull()
            if head == commit:  # It was taken, though the connection broke before the answer.
                return new, commit, True
            current = _read(repository, path)
            if attempt < attempts:
                # Jitter keeps competitors from meeting again and again.
                time.sleep(random.uniform(0.05, 0.3) * attempt)  # noqa: S311
    raise ReleaseError(f"{repository.shown}: {attempts} pushes were rejected because of other commits: {refused}")


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


def _next(current: Release | None, published: PublishedModel, verdict_sha256: str) -> Release:
    try:
        return Release(
            model=published.model,
            version=current.version + 1 if current else 1,
            digest=published.digest,
            previous_digest=current.digest if current else None,
            verdict_sha256=verdict_sha256,
            store=published.store,
        )
    except ValidationError as error:
        raise ReleaseError(f"the release is not valid: {_problems(error)}") from None


def _message(environment: str, new: Release) -> str:
    return (
        f"Release {new.model} {new.version} to {environment}\n\n"
        f"Digest: {new.digest}\nPrevious: {new.previous_digest or 'none'}\nVerdict: {new.verdict_sha256}\n"
    )


def _to_yaml(environment: str, new: Release) -> str:
    data = {
        "model": new.model,
        "version": str(new.version),
        "digest": new.digest,
        "previousDigest": new.previous_digest or "",
        "verdictSha256": new.verdict_sha256,
        "store": new.store,
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


def _from_yaml(text: str, where: str) -> Release:
    try:
        data = yaml.safe_load(text)["data"]
        names = {"previousDigest": "previous_digest", "verdictSha256": "verdict_sha256"}
        values = {names.get(key, key): value for key, value in data.items()}
        return Release.model_validate({**values, "previous_digest": values.get("previous_digest") or None})
    except ValidationError as error:
        raise ReleaseError(f"{where} is not valid: {_problems(error)}") from None
    except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise ReleaseError(f"{where} is not a ConfigMap with a release in `data`: {error!r}") from None


def _problems(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']} (got {p['input']!r})" for p in error.errors())
