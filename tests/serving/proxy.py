"""A real haproxy with two slots for Tritons, which plays the Service of a cluster: one request, one backend.

It never repeats a request, so nothing that a Triton drops is hidden.
"""

import csv
import io
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Literal, Self

import pytest

from troika.serving.triton import TritonServer

Slot = Literal["a", "b"]

needs_haproxy = pytest.mark.skipif(
    not (shutil.which("haproxy") and shutil.which("wrk")) and not os.environ.get("CI"),
    reason="haproxy or wrk is not installed",
)

_CONFIGURATION = """
global
  stats socket {socket} level admin
defaults
  mode http
  retries 0
  timeout connect 2s
  timeout client 30s
  timeout server 30s
frontend http
  bind 127.0.0.1:{http}
  default_backend http
frontend grpc
  bind 127.0.0.1:{grpc} proto h2
  default_backend grpc
backend http
  server a 127.0.0.1:1 disabled
  server b 127.0.0.1:1 disabled
backend grpc
  server a 127.0.0.1:1 proto h2 disabled
  server b 127.0.0.1:1 proto h2 disabled
"""


class Proxy:
    """Listens on `http_port` and `grpc_port` inside a `with` block."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as one, socket.socket() as other:
            for probe in (one, other):
                probe.bind(("127.0.0.1", 0))
            self.http_port, self.grpc_port = one.getsockname()[1], other.getsockname()[1]
        self._socket, self._file = folder / "admin", folder / "haproxy.cfg"
        self._file.write_text(_CONFIGURATION.format(socket=self._socket, http=self.http_port, grpc=self.grpc_port))

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(["haproxy", "-db", "-f", str(self._file)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not self._socket.exists():
            assert self._process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def add(self, slot: Slot, server: TritonServer) -> None:
        """New requests may go there."""
        for protocol, port in (("http", server.state.http_port), ("grpc", server.state.grpc_port)):
            self._say(f"set server {protocol}/{slot} addr 127.0.0.1 port {port}")
            self._say(f"set server {protocol}/{slot} state ready")

    def remove(self, slot: Slot) -> None:
        """No new requests go there; those under way come to their end."""
        for protocol in ("http", "grpc"):
            self._say(f"set server {protocol}/{slot} state drain")

    def requests(self) -> int:
        """How many have come so far over HTTP, or over gRPC if that is less."""
        rows = list(csv.DictReader(io.StringIO(self._say("show stat").removeprefix("# "))))
        return min(int(row["req_tot"]) for row in rows if row["svname"] == "FRONTEND")

    def _say(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._socket))
            connection.sendall(f"{command}\n".encode())
            said = b"".join(iter(lambda: connection.recv(4096), b"")).decode()
        assert "No such" not in said, said
        assert "Unknown" not in said, said
        return said
