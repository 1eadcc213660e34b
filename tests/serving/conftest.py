"""Real Triton servers on tiny bundles; the bundle maker is that of tests/releases."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "releases"))

from client_address import Protocol, url
from tiny_bundle import tiny_bundle

from troika.releases.bundle import Bundle
from troika.serving.client import Client
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


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def client(server: TritonServer, protocol: Protocol) -> Iterator[Client]:
    with Client(url(server, protocol), protocol, model="tiny") as client:
        yield client


@pytest.fixture
def plain_client(unconditional_server: TritonServer, protocol: Protocol) -> Iterator[Client]:
    with Client(url(unconditional_server, protocol), protocol, model="plain") as client:
        yield client
