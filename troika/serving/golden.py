"""The test before a release: does a real Triton load this very bundle, and answer as was promised?

Every bundle carries golden inputs with the images that its graph gave when it was exported.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from troika.errors import BundleError, ServerError
from troika.releases.store import fetch
from troika.serving.client import Client
from troika.serving.triton import TritonServer

TOLERANCE = 1
"""Levels of 0..255: another kind of processor may round a value near a half the other way."""


@dataclass(frozen=True)
class GoldenResult:
    """A passed test."""

    images: int
    largest_difference: int
    """In levels of 0..255."""
    seconds_to_ready: float


def check_golden(folder: Path, expected_digest: str | None = None) -> GoldenResult:
    """Serve a bundle with a real Triton and compare its answers with the golden ones.

    Args:
        folder: the bundle.
        expected_digest: what it must be.

    Raises:
        BundleError: the bundle is damaged, or has no usable golden.npz.
        ServerError: Triton does not load it, or answers with other images or another digest.
    """
    seeds, labels, images = _read(folder)
    with TritonServer(folder, expected_digest=expected_digest, exit_seconds=0) as server:
        state = server.state
        with Client(f"127.0.0.1:{state.grpc_port}", model=state.model) as client:
            largest = 0
            for number, (seed, expected) in enumerate(zip(seeds, images, strict=True)):
                label = None if labels is None else [int(labels[number])]
                made = client.generate(1, seed=int(seed), labels=label)
                if made.images[0].shape != expected.shape:
                    found = made.images[0].shape
                    raise ServerError(
                        f"golden image {number} of {state.model} is {expected.shape}, Triton's {found}"
                    )
                largest = max(largest, int(np.abs(made.images[0].astype(int) - expected).max()))
                if made.model_digest != state.digest:
                    raise ServerError(
                        f"Triton says that it serves {made.model_digest}, but it was given {state.digest}"
                    )
                if largest > TOLERANCE:
                    raise ServerError(
                        f"{state.model} {state.digest} does not answer as promised: image {number} (seed {seed}) "
                        f"differs by {largest} of 255 levels from the golden one; at most {TOLERANCE} is allowed"
                    )
        return GoldenResult(len(seeds), largest, server.seconds_to_ready)


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


def _read(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.int64] | None, NDArray[np.uint8]]:
    try:
        with np.load(folder / "golden.npz") as golden:
            seeds, images = golden["seed"].reshape(-1), golden["image"]
            labels = golden["label"].reshape(-1) if "label" in golden else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{folder}/golden.npz cannot be read: {error}; export the model again") from None
    if not len(seeds) or len(seeds) != len(images) or (labels is not None and len(labels) != len(seeds)):
        raise BundleError(f"{folder}/golden.npz holds {len(seeds)} seeds for {len(images)} images; export again")
    return seeds, labels, images
