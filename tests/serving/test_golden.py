"""The golden images of a server that runs already: the first thing that a canary has to pass."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
from tiny_bundle import expected_images, tiny_bundle

from troika.releases.bundle import Bundle
from troika.serving.client import Client
from troika.serving.container import ageing
from troika.serving.triton import TritonServer


def ask(address: str, bundle: Bundle) -> subprocess.CompletedProcess[str]:
    settings = {"TROIKA_SERVER": address, "TROIKA_DIGEST": bundle.digest, "TROIKA_TARGET": str(bundle.folder)}
    return subprocess.run(
        [sys.executable, "-m", "troika.serving.golden"],
        check=False, capture_output=True, text=True, env={**os.environ, **settings}, timeout=60,
    )  # fmt: skip


def test_a_server_that_answers_as_was_promised(server: TritonServer, conditional_bundle: Bundle) -> None:
    done = ask(f"127.0.0.1:{server.state.grpc_port}", conditional_bundle)
    assert done.returncode == 0, done.stderr
    assert f"golden images of {conditional_bundle.digest}" in done.stdout


def test_a_server_of_another_release_and_none_at_all_are_one_line(server: TritonServer, tmp_path: Path) -> None:
    other = tiny_bundle(tmp_path / "other", note="another")
    address = f"127.0.0.1:{server.state.grpc_port}"
    for where, words in ((address, "but it should serve"), ("127.0.0.1:1", "127.0.0.1:1")):
        done = ask(where, other)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_an_old_grpc_connection_is_renewed_and_nobody_notices(conditional_bundle: Bundle) -> None:
    """Else a client would stay at its first pod for ever."""
    ports: set[int] = set()
    asked = 0
    with (
        TritonServer(conditional_bundle.folder, exit_seconds=0, arguments=ageing(1)) as server,
        Client(f"127.0.0.1:{server.state.grpc_port}", model="tiny", retries=0) as client,
    ):
        end = time.monotonic() + 4
        while time.monotonic() < end:
            made = client.generate(1, seed=asked, labels=[3])
            assert (made.images == expected_images([asked], [3])).all()
            asked += 1
            ports |= {
                connection.laddr.port
                for connection in psutil.Process().net_connections("tcp")
                if connection.raddr and connection.raddr.port == server.state.grpc_port
            }
    assert asked > 20
    assert len(ports) >= 2
    assert ageing(0) == ()
