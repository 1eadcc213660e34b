"""A server that is added behind an address gets its share, without a failed or doubled request.

A real haproxy plays the Service of a cluster as it balances without a mesh: connections, not requests.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from client_address import Protocol
from test_client_connections import requests_of
from tiny_bundle import tiny_bundle
from waiting import wait_until

from troika.serving.client import Client
from troika.serving.triton import TritonServer

pytestmark = pytest.mark.skipif(
    not shutil.which("haproxy") and not os.environ.get("CI"), reason="haproxy is not installed"
)

REQUESTS = 300
_CONFIGURATION = """
global
  stats socket {folder}/admin level admin
defaults
  mode tcp
  timeout connect 10s
  timeout client 60s
  timeout server 60s
listen service
  bind 127.0.0.1:{port}
  balance roundrobin
  server a 127.0.0.1:{a}
  server b 127.0.0.1:{b} disabled
"""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TritonServer, TritonServer]]:
    folder = tmp_path_factory.mktemp("versions")
    old, new = (tiny_bundle(folder / name, note=name) for name in ("old", "new"))
    with TritonServer(old.folder, exit_seconds=0) as one, TritonServer(new.folder, exit_seconds=0) as other:
        yield one, other


@contextmanager
def service(folder: Path, old: int, new: int) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    (folder / "haproxy.cfg").write_text(_CONFIGURATION.format(folder=folder, port=port, a=old, b=new))
    with subprocess.Popen(
        ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")], stderr=subprocess.DEVNULL
    ) as proxy:
        try:
            wait_until((folder / "admin").exists)
            yield port
        finally:
            proxy.kill()


def add_the_new_server(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(folder / "admin"))
        connection.sendall(b"set server service/b state ready\n")
        connection.recv(4096)


@pytest.mark.parametrize(
    ("limits", "gets_a_share"),
    [({"connection_requests": 20}, True), ({"connection_seconds": float("inf")}, False)],
)
def test_a_new_server_gets_at_least_half_of_its_fair_share(
    servers: tuple[TritonServer, TritonServer],
    protocol: Protocol,
    tmp_path: Path,
    limits: dict[str, Any],
    gets_a_share: bool,
) -> None:
    """The negative control keeps its connection, as clients did."""
    old, new = servers
    ports = [one.state.grpc_port if protocol == "grpc" else one.state.http_port for one in servers]
    before = [requests_of(one) for one in servers]
    with (
        service(tmp_path, *ports) as port,
        Client(f"127.0.0.1:{port}", protocol, model="tiny", retries=0, **limits) as client,
    ):
        assert {client.generate(1, seed=seed).model_digest for seed in range(50)} == {old.state.digest}
        add_the_new_server(tmp_path)
        digests = [client.generate(1, seed=seed).model_digest for seed in range(REQUESTS)]
    share = digests.count(new.state.digest) / REQUESTS
    assert (share >= 0.25) == gets_a_share, share
    answered = [requests_of(one) - earlier for one, earlier in zip(servers, before, strict=True)]
    assert answered == [50 + REQUESTS - digests.count(new.state.digest), digests.count(new.state.digest)]
