"""What should be served, and what was promised of it: the release in Git, its verdict and reference in the store.

Asks no server; quality_probe.py does.
"""

import io
import json
from dataclasses import dataclass
from typing import Any, Protocol

from troika.errors import ReleaseError, StoreError
from troika.quality.reference import Reference, expected_ranges, limits_of
from troika.releases.pointer import read_release
from troika.releases.store import read_bundle_file, read_reference, read_verdict
from troika.serving.golden import GoldenAnswers, read_golden


@dataclass(frozen=True)
class Promise:
    """What one environment should serve."""

    environment: str
    model: str
    digest: str
    version: str
    store: str
    verdict_sha256: str


class PromiseSource(Protocol):
    """Where a probe learns what should be served."""

    @property
    def name(self) -> str:
        """How it is called in metrics."""

    def read(self) -> Promise:
        """What should be served now; ReleaseError if that cannot be known."""


@dataclass(frozen=True)
class GitPromise:
    """The pointer at the head of a Git branch: what the cluster follows, asked for without it."""

    remote: str
    environment: str
    branch: str = "main"
    name: str = "git"

    def read(self) -> Promise:
        """Read the pointer.

        Raises:
            ReleaseError: the remote cannot be read, or nothing has been released.
        """
        found = read_release(self.remote, self.environment, self.branch)
        if found is None:
            raise ReleaseError(f"nothing has been released to {self.environment}")
        return Promise(
            self.environment, found.model, found.digest, str(found.version), found.store, found.verdict_sha256
        )


@dataclass(frozen=True)
class SetPromise:
    """What the probe's own settings say; they come from the same commit as those of the pods, so drift of a
    cluster that does not follow Git any more stays unseen.
    """

    promise: Promise
    name: str = "settings"

    def read(self) -> Promise:
        """What was set."""
        return self.promise


@dataclass(frozen=True)
class Promised:
    """What the released verdict promises of every window of images."""

    limits: dict[str, tuple[str, float]]
    """Figure -> (`at_least` or `at_most`, value)."""
    expected: dict[str, tuple[float, float]]
    """Figure -> where 999 of 1,000 windows lie."""
    window_images: int
    reference: Reference


def read_promised(promise: Promise, known: Promised | None = None) -> Promised | None:
    """What the store holds about a release; None if its verdict came without a reference.

    Asks the store each time, so that its silence is noticed, but reads the reference once.

    Args:
        promise: the release.
        known: what an earlier call returned for the same release.

    Raises:
        StoreError: the store does not answer, has no such verdict, or what it holds is damaged.
    """
    content = read_verdict(promise.store, promise.model, promise.digest, promise.verdict_sha256)
    if content is None:
        raise StoreError(f"{promise.store} has no verdict {promise.verdict_sha256} on {promise.digest}")
    if known is not None:
        return known
    try:
        verdict: dict[str, Any] = json.loads(content)
        sha256 = verdict.get("reference_sha256")
        reference = read_reference(promise.store, promise.model, promise.digest, sha256) if sha256 else None
        if reference is None:
            return None
        window = int(verdict["params"]["samples"]["batch_size"])
        return Promised(limits_of(verdict), expected_ranges(verdict), window, Reference.from_bytes(reference))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"the verdict {promise.verdict_sha256} is not what evaluate writes: {error!r}") from None


def read_golden_of(store: str, model: str, digest: str) -> GoldenAnswers:
    """The golden answers of any published bundle.

    Raises:
        StoreError: it is not in the store, or the store does not answer.
        BundleError: they cannot be read.
    """
    content = read_bundle_file(store, model, digest, "golden.npz")
    return read_golden(io.BytesIO(content), f"golden.npz of {model} {digest}")
