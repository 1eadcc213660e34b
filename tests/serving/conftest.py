"""Real Triton servers on tiny bundles; the bundle maker is that of tests/releases."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "releases"))

from tiny_bundle import tiny_bundle

from troika.releases.bundle import Bundle
from troika.serving.triton import TritonServer

# Unloading takes Triton four seconds; a server that is killed must leave as little behind.
AT_ONCE = 0.0


@pytest.fixture(scope="session")
def conditional_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("conditional") / "bundle")


@pytest.fixture(scope="session")
def server(conditional_bundle: Bundle) -> Iterator[TritonServer]:
    """A conditional model, served."""
    with TritonServer(conditional_bundle.folder, exit_seconds=AT_ONCE) as running:
        yield running


@pytest.fixture(scope="session")
def unconditional_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    bundle = tiny_bundle(tmp_path_factory.mktemp("unconditional") / "bundle", conditional=False, model="plain")
    with TritonServer(bundle.folder, exit_seconds=AT_ONCE) as running:
        yield running
