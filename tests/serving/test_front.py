"""The front as its container runs it: renewed under load, ended in peace, and gone when HAProxy is."""

import http.client
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from attacks import GRPC, PATH, classified_otherwise, message, request
from proxy import needs_haproxy
from raw_requests import begun_messages
from waiting import wait_until

from troika.errors import PortInUseError, ServerError
from troika.releases.bundle import Bundle
from troika.serving import front as front_module
from troika.serving.front import CONFIGURATION, Front, find_haproxy, settings
from troika.serving.triton import TritonServer
from troika.serving.triton_process import answer, choose_ports

pytestmark = needs_haproxy
SCRIPT = CONFIGURATION.with_name("front.sh")
RENEWALS = 4


@contextmanager
def running(
    server: TritonServer, renew_seconds: int
) -> Iterator[tuple[subprocess.Popen[bytes], tuple[int, int, int]]]:
    """The script before a Triton."""
    state, ports = server.state, choose_ports((0, 0, 0))
    environment = settings(
        os.environ, ports, "127.0.0.1", (state.http_port, state.grpc_port, state.metrics_port), 15
    )
    environment |= {
        "TROIKA_FRONT_CONFIGURATION": str(CONFIGURATION),
        "TROIKA_FRONT_RENEW_SECONDS": str(renew_seconds),
        "PATH": f"{environment['PATH']}:{find_haproxy().parent}",
    }
    with subprocess.Popen(["bash", SCRIPT], env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: answer(ports[2], "/front/live") is not None)
            yield process, ports
        finally:
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.kill()
            for member in family:
                member.kill()


class Clients:
    """One over HTTP and one over gRPC, each asking again and again by the connection that it has."""

    def __init__(self, ports: tuple[int, int, int]) -> None:
        self._ports, self._stop = ports, threading.Event()
        self.answered = {"http": 0, "grpc": 0}
        self.failed: list[str] = []
        self.connections = {"http": 0, "grpc": 0}
        self._threads = [threading.Thread(target=self._http), threading.Thread(target=self._grpc)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _http(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._ports[0], timeout=20)
        while not self._stop.is_set():
            self.connections["http"] += connection.sock is None
            try:
                connection.request("POST", PATH, request())
                response = connection.getresponse()
                response.read()
                assert response.status == 200
                self.answered["http"] += 1
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.failed.append(f"http: {error!r}")
                connection.close()
        connection.close()

    def _grpc(self) -> None:
        def count(state: grpc.ChannelConnectivity) -> None:
            self.connections["grpc"] += state is grpc.ChannelConnectivity.READY

        with grpc.insecure_channel(f"127.0.0.1:{self._ports[1]}") as channel:
            channel.subscribe(count)
            infer = channel.unary_unary(f"{GRPC}ModelInfer")
            while not self._stop.is_set():
                try:
                    infer(message().SerializeToString(), timeout=20)
                    self.answered["grpc"] += 1
                except grpc.RpcError as error:
                    self.failed.append(f"grpc: {error.code()} {error.details()}")  # type: ignore[attr-defined]


def test_clients_open_new_connections_and_lose_no_request(server: TritonServer) -> None:
    with running(server, 1) as (_, ports), Clients(ports) as clients:
        wait_until(lambda: min(clients.connections.values()) > RENEWALS)
    assert clients.failed == []
    assert min(clients.answered.values()) > 10


def test_without_renewal_connections_stay(server: TritonServer) -> None:
    """The control of the test above."""
    with running(server, 3600) as (_, ports), Clients(ports) as clients:
        wait_until(lambda: min(clients.answered.values()) > 300)
    assert clients.connections == {"http": 1, "grpc": 1}
    assert clients.failed == []


def test_http_connections_end_by_age(server: TritonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROIKA_FRONT_CONNECTION_SECONDS", "-61")  # older than this is each
    with running(server, 3600) as (_, ports), Clients(ports) as clients:
        wait_until(lambda: min(clients.answered.values()) > 50)
    assert clients.connections["http"] >= 50
    assert clients.failed == []


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_ends_it(server: TritonServer, number: signal.Signals) -> None:
    with running(server, 3600) as (process, ports):
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        status = process.wait(30)
        assert status in {0, 128 + number}
        wait_until(lambda: not any(member.is_running() for member in family))
        assert answer(ports[2], "/front/live") is None


def test_it_ends_when_haproxy_does(server: TritonServer) -> None:
    with running(server, 3600) as (process, _):
        for member in psutil.Process(process.pid).children(recursive=True):
            if member.name() == "haproxy":
                member.kill()
        assert process.wait(30) != 0


def test_a_server_whose_front_has_died_says_so(conditional_bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with TritonServer(conditional_bundle.folder, exit_seconds=0, front=True, log_file=log) as server:
        assert server.front is not None
        os.kill(server.front.pid, signal.SIGKILL)
        with pytest.raises(ServerError, match=r"the front \(HAProxy\) has ended"):
            server.wait()


def test_a_taken_port_of_the_front_is_named(tmp_path: Path) -> None:
    import socket

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        ports = (holder.getsockname()[1], *choose_ports((0, 0, 0))[1:])
        front = Front(ports, "127.0.0.1", (1, 2, 3), 0, tmp_path / "log")
        wait_until(lambda: front.ended)
        with pytest.raises(PortInUseError, match="one of the front's ports"):
            front.check()
        front.close()


def test_a_missing_or_old_haproxy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(front_module, "_FOLDERS", str(tmp_path))
    with pytest.raises(ServerError, match="apt-get install haproxy"):
        find_haproxy()
    program = tmp_path / "haproxy"
    program.write_text("#!/bin/sh\necho HAProxy version 2.4.22-0ubuntu0 2023/08/14\n")
    program.chmod(0o755)
    with pytest.raises(ServerError, match=r"HAProxy 2\.6 or later, and .* says .*2\.4\.22"):
        find_haproxy()
    program.write_text("#!/bin/sh\necho HAProxy version 3.0.11-1 2025/06/01\n")
    assert find_haproxy() == program


def test_no_setting_lets_a_message_through_that_does_not_fit(
    server: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROIKA_FRONT_BODY_BYTES", "65536")
    monkeypatch.setenv("TROIKA_FRONT_BUFFER_BYTES", "81920")
    with running(server, 1000) as (_, ports), grpc.insecure_channel(f"127.0.0.1:{ports[1]}") as channel:
        infer = channel.unary_unary(f"{GRPC}ModelInfer")
        for content, words in ((message(content=bytes(300_000)).SerializeToString(), "larger than"),
                               (classified_otherwise(), "classification is not offered")):  # fmt: skip
            with pytest.raises(grpc.RpcError, match=words):
                infer(content, timeout=20)


def test_messages_that_are_never_whole_take_bounded_memory(
    server: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROIKA_FRONT_BUFFERS", "40")
    monkeypatch.setenv("TROIKA_FRONT_REQUEST_SECONDS", "2")
    state, ports = server.state, choose_ports((0, 0, 0))
    behind = (state.http_port, state.grpc_port, state.metrics_port)
    front = Front(ports, "127.0.0.1", behind, 0, tmp_path / "log")
    try:
        wait_until(lambda: answer(ports[2], "/front/live") is not None)
        with ExitStack() as connections:
            for _ in range(10):
                connections.enter_context(begun_messages(ports[1], 100, 60_000))
            wait_until(lambda: answer(ports[0], "/v2/health/live") is not None)
            peak = Path(f"/proc/{front.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
    finally:
        front.close()
    # Of 1,000 messages 60,000 bytes have been sent: 60 MB. 40 buffers are 13 MB, and HAProxy itself is 15 MB.
    assert int(peak) < 45_000


def test_a_second_ctrl_c_ends_a_front_that_hangs(server: TritonServer, tmp_path: Path) -> None:
    state, ports = server.state, choose_ports((0, 0, 0))
    behind = (state.http_port, state.grpc_port, state.metrics_port)
    front = Front(ports, "127.0.0.1", behind, 120, tmp_path / "log")
    haproxy = psutil.Process(front.pid)
    # A shell that starts the tests in the background has them ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        wait_until(lambda: answer(ports[2], "/front/live") is not None)
        haproxy.suspend()
        timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            front.close()
        wait_until(lambda: not haproxy.is_running() or haproxy.status() == psutil.STATUS_ZOMBIE)
    finally:
        signal.signal(signal.SIGINT, before)
        if haproxy.is_running():
            haproxy.kill()
