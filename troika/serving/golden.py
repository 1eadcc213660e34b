"""The test before a release: does a real Triton load this very bundle, and answer as was promised?

Every bundle carries golden inputs with the images that its graph gave when it was exported. As a program it asks a
server that runs already, as the first thing that a canary has to pass:

    python -m troika.serving.golden --server triton-canary:8001 --target /models/bundle --digest sha256:...
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import numpy as np
import typer
from numpy.typing import NDArray

from troika.errors import BundleError, ServerError, TroikaError
from troika.releases.bundle import Bundle
from troika.releases.store import fetch
from troika.serving.client import Client

TOLERANCE = 1
"""Levels of 0..255: another kind of processor may round a value near a half the other way."""


@dataclass(frozen=True)
class GoldenAnswers:
    """Inputs, and the images that a bundle promises for them."""

    seeds: NDArray[np.int64]
    """(N,)"""
    labels: NDArray[np.int64] | None
    """(N,); None if the model takes no label."""
    images: NDArray[np.uint8]
    """(N, H, W, C), 0..255."""


@dataclass(frozen=True)
class GoldenResult:
    """A passed test."""

    images: int
    largest_difference: int
    """In levels of 0..255."""
    seconds_to_ready: float
    """0 for a server that ran already."""


def check_golden(folder: Path, expected_digest: str | None = None) -> GoldenResult:
    """Serve a bundle with a real Triton and compare its answers with the golden ones.

    Args:
        folder: the bundle.
        expected_digest: what it must be.

    Raises:
        BundleError: the bundle is damaged, or has no usable golden.npz.
        ServerError: Triton does not load it, or answers with other images or another digest.
    """
    from troika.serving.triton import TritonServer  # noqa: PLC0415 - the quality probe's image has no Triton

    bundle = Bundle.open(folder, expected_digest)
    golden = read_golden(folder / "golden.npz", f"{folder}/golden.npz")
    with TritonServer(folder, expected_digest=expected_digest, exit_seconds=0) as server:
        largest = _compare(golden, f"127.0.0.1:{server.state.grpc_port}", bundle)
        return GoldenResult(len(golden.seeds), largest, server.seconds_to_ready)


def check_server(server: str, folder: Path, expected_digest: str | None = None) -> GoldenResult:
    """The same of a server that runs elsewhere, such as the canary of a release.

    Args:
        server: HOST:PORT of its gRPC side.
        folder: the bundle that it should serve.
        expected_digest: what the bundle must be.

    Raises:
        BundleError: see `check_golden`, as for ServerError, which is also raised where nobody answers.
    """
    bundle = Bundle.open(folder, expected_digest)
    golden = read_golden(folder / "golden.npz", f"{folder}/golden.npz")
    return GoldenResult(len(golden.seeds), _compare(golden, server, bundle), 0.0)


def check_published(
    store: str, model: str, digest: str, scratch: Path, public_key: Path | None = None
) -> GoldenResult:
    """The same for what is in a store, which is fetched into the folder `scratch`.

    Raises:
        StoreError: it is not there, or damaged.
        BundleError: and ServerError, see `check_golden`.
    """
    fetch(store, model, digest, scratch / "bundle", public_key=public_key)
    return check_golden(scratch / "bundle", digest)


def _compare(golden: GoldenAnswers, server: str, bundle: Bundle) -> int:
    labels = golden.labels
    largest = 0
    with Client(server, model=bundle.model) as client:
        for number, (seed, expected) in enumerate(zip(golden.seeds, golden.images, strict=True)):
            label = None if labels is None else [int(labels[number])]
            made = client.generate(1, seed=int(seed), labels=label)
            if made.images[0].shape != expected.shape:
                found = made.images[0].shape
                raise ServerError(f"golden image {number} of {bundle.model} is {expected.shape}, Triton's {found}")
            largest = max(largest, int(np.abs(made.images[0].astype(int) - expected).max()))
            if made.model_digest != bundle.digest:
                raise ServerError(
                    f"Triton says that it serves {made.model_digest}, but it should serve {bundle.digest}"
                )
            if largest > TOLERANCE:
                raise ServerError(
                    f"{bundle.model} {bundle.digest} does not answer as promised: image {number} (seed {seed}) "
                    f"differs by {largest} of 255 levels from the golden one; at most {TOLERANCE} is allowed"
                )
    return largest


def read_golden(source: Path | BinaryIO, where: str) -> GoldenAnswers:
    """Read golden.npz; `where` is how an error names it.

    Raises:
        BundleError: it cannot be read, or its parts do not fit together.
    """
    try:
        with np.load(source) as golden:
            seeds, images = golden["seed"].reshape(-1), golden["image"]
            labels = golden["label"].reshape(-1) if "label" in golden else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{where} cannot be read: {error}; export the model again") from None
    if not len(seeds) or len(seeds) != len(images) or (labels is not None and len(labels) != len(seeds)):
        raise BundleError(f"{where} holds {len(seeds)} seeds for {len(images)} images; export again")
    return GoldenAnswers(seeds, labels, images)


def main(
    server: Annotated[str, typer.Option(envvar="TROIKA_SERVER", help="HOST:PORT of Triton's gRPC side.")],
    digest: Annotated[str, typer.Option(envvar="TROIKA_DIGEST", help="sha256:<hex>, from release.yaml.")],
    target: Annotated[Path, typer.Option(envvar="TROIKA_TARGET", help="The bundle's folder.")],
) -> None:
    """Ask a running server for a bundle's golden images. Exit status 1: it does not answer as was promised."""
    try:
        result = check_server(server, target, digest)
    except TroikaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{server} gives the {result.images} golden images of {digest}")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
