"""No client hangs, and each comes back: dead connections, slow answers, forks, loops, proxies, new servers."""

import asyncio
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from client_address import Protocol, url
from prometheus_client import CollectorRegistry
from relay import Relay
from slow_model import slow_model
from tiny_bundle import expected_images
from waiting import PATIENCE, wait_until

from troika.errors import DeadlineError, RequestError, ServerError, UnknownHostError, UnreachableError
from troika.serving import grpc_protocol
from troika.serving.address import check_host_port, is_local
from troika.serving.async_client import AsyncClient
from troika.serving.client import Client
from troika.serving.client_metrics import ClientMetrics
from troika.serving.triton import TritonServer

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


def port_of(server: TritonServer, protocol: Protocol) -> int:
    return int(url(server, protocol).rpartition(":")[2])


@pytest.fixture
def relay(server: TritonServer, protocol: Protocol) -> Iterator[Relay]:
    with Relay(port_of(server, protocol)) as relay:
        yield relay


def open_client(relay: Relay, protocol: Protocol, timeout: float = PATIENCE, **options: Any) -> Client:
    options = {"retries": 0, **options}
    return Client(f"127.0.0.1:{relay.port}", protocol, timeout, "tiny", **options)


def outcomes(registry: CollectorRegistry, model: str = "tiny") -> dict[str, float]:
    (family,) = (family for family in registry.collect() if family.name == "troika_client_requests")
    return {
        sample.labels["outcome"]: sample.value
        for sample in family.samples
        if sample.name.endswith("_total") and sample.labels["model"] == model and sample.value
    }


def test_a_connection_whose_other_end_has_vanished_costs_one_request(relay: Relay, protocol: Protocol) -> None:
    with open_client(relay, protocol) as client:
        client.generate(1)
        relay.freeze()
        client._timeout = 1.0
        with pytest.raises(DeadlineError):
            client.generate(1)
        client._timeout = PATIENCE
        for seed in range(5):
            assert (client.generate(1, seed=seed, labels=1).images == expected_images([seed], [1])).all()
    with open_client(relay, protocol) as other:
        other.generate(1)


def test_grpc_notices_by_itself_that_the_other_end_has_vanished(
    server: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_protocol, "_KEEPALIVE_MILLISECONDS", 500)
    monkeypatch.setattr(grpc_protocol, "_KEEPALIVE_ANSWER_MILLISECONDS", 500)
    with Relay(server.state.grpc_port) as relay, open_client(relay, "grpc", 10 * PATIENCE, retries=1) as client:
        client.generate(1)
        relay.freeze()
        assert (client.generate(1, seed=5, labels=1).images == expected_images([5], [1])).all()


def test_asking_whether_the_other_end_lives_does_not_end_a_long_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default Triton ends a connection that asks three times while it waits for one answer."""
    monkeypatch.setattr(grpc_protocol, "_KEEPALIVE_MILLISECONDS", 1100)
    model = slow_model(tmp_path, 6.0, {})
    with (
        TritonServer(model.bundle, exit_seconds=0) as server,
        Client(f"127.0.0.1:{server.state.grpc_port}", model="tiny", retries=0) as client,
    ):
        assert (client.generate(1, seed=1, labels=1).images == expected_images([1], [1])).all()


def test_after_an_outage_the_first_request_gets_through(relay: Relay, protocol: Protocol) -> None:
    with open_client(relay, protocol) as client:
        relay.refuse()
        for _ in range(10):
            with pytest.raises(UnreachableError):
                client.generate(1)
            threading.Event().wait(0.2)
        relay.serve_again()
        assert client.generate(1).images.shape[0] == 1


@pytest.mark.parametrize("flavour", [Client, AsyncClient])
def test_an_answer_that_comes_byte_by_byte_is_given_up_in_time(
    relay: Relay, protocol: Protocol, flavour: type[Any]
) -> None:
    """The whole answer would take a minute, and no two bytes are more than a fifth of a second apart."""
    if flavour is Client:
        with open_client(relay, protocol) as client:
            client._timeout = 1.0
            relay.drip = True
            with pytest.raises(DeadlineError):
                client.generate(1)
        return

    async def ask() -> None:
        async with AsyncClient(f"127.0.0.1:{relay.port}", protocol, model="tiny", retries=0) as client:
            client._timeout = 1.0
            relay.drip = True
            await client.generate(1)

    with pytest.raises(DeadlineError):
        asyncio.run(ask())


FORK = """
import os, sys, threading
from troika.serving.client import Client
address, protocol, ending = sys.argv[1:]
with Client(address, protocol, model="tiny", timeout=60) as client:
    client.generate(1)
    at_work = threading.Thread(target=lambda: [client.generate(1, seed=seed) for seed in range(200)])
    at_work.start()
    children = []
    for number in range(3):
        child = os.fork()
        if not child:
            images = [client.generate(3, seed=seed, labels=number).images for seed in range(20)]
            print("child", number, len(images), flush=True)
            if ending == "at once":
                os._exit(0)
            client.close()
            sys.exit(0)
        children.append(child)
    client.generate(1)
    at_work.join()
    print("ended", [os.waitpid(child, 0)[1] for child in children], flush=True)
    for seed in range(20):
        client.generate(1, seed=seed)
    print("parent goes on", flush=True)
"""


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("ending", ["at once", "in peace"])
def test_forked_processes_have_connections_of_their_own(
    server: TritonServer, protocol: Protocol, ending: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, url(server, protocol), protocol, ending],
        check=False, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    said = sorted(done.stdout.splitlines())
    assert said == ["child 0 20", "child 1 20", "child 2 20", "ended [0, 0, 0]", "parent goes on"], done.stderr


def test_a_closed_client_says_so(server: TritonServer, protocol: Protocol) -> None:
    client = Client(url(server, protocol), protocol, model="tiny")
    client.close()
    client.close()
    with pytest.raises(RequestError, match="this client is closed"):
        client.generate(1)

    async def use_outside() -> None:
        client = AsyncClient(url(server, protocol), protocol, model="tiny")
        with pytest.raises(RequestError, match="`async with` has opened it"):
            await client.generate(1)
        async with client:
            await client.generate(1)
        with pytest.raises(RequestError, match="this client is closed"):
            await client.generate(1)
        with pytest.raises(RequestError, match="opened before"):
            await client.__aenter__()

    asyncio.run(use_outside())


def test_another_event_loop_is_told_to_open_a_client_of_its_own(server: TritonServer, protocol: Protocol) -> None:
    client = AsyncClient(url(server, protocol), protocol, model="tiny")
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(client.__aenter__())
        with pytest.raises(RequestError, match="belongs to the event loop"):
            second.run(client.generate(1))
        first.run(client.generate(1))
        first.run(client.__aexit__())


@pytest.fixture
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("dead_proxy")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.9.8.7", "[::ffff:127.0.0.1]"])
def test_no_proxy_leads_to_this_machine(server: TritonServer, protocol: Protocol, host: str) -> None:
    address = f"{host}:{port_of(server, protocol)}"
    if host == "127.9.8.7":
        # Triton listens on 127.0.0.1 alone: the connection is refused here, and not by the proxy.
        with pytest.raises(UnreachableError, match=r"refused|failed to connect"):
            Client(address, protocol, model="tiny", retries=0)
        return
    with Client(address, protocol, model="tiny") as client:
        client.generate(1)

    async def ask() -> None:
        async with AsyncClient(address, protocol, model="tiny") as client:
            await client.generate(1)

    asyncio.run(ask())


LOCAL = ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.255.0.9", "127.1", "0x7f000001", "0.0.0.0"]  # noqa: S104
LOCAL += ["[::1]", "[::]", "[::ffff:127.0.0.2]"]
ELSEWHERE = ["localhost.example", "10.0.0.1", "128.0.0.1", "[fe80::1]", "abc", "dead.beef"]


def test_addresses_of_this_machine_are_known() -> None:
    assert [host for host in LOCAL + ELSEWHERE if is_local(check_host_port(f"{host}:1"))] == LOCAL


@contextmanager
def recorder() -> Iterator[tuple[int, list[bytes]]]:
    """A proxy that answers nothing, and what it was asked first."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(65536))

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield listener.getsockname()[1], asked
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_another_machine_is_asked_through_the_proxy(protocol: Protocol, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above."""
    with recorder() as (port, asked):
        for name in PROXIES:
            monkeypatch.setenv(name, f"http://me:secret@127.0.0.1:{port}")
        monkeypatch.delenv("no_proxy", raising=False)
        with pytest.raises(ServerError, match=r"triton\.example:80") as caught:
            Client("triton.example:80", protocol, 5.0, "tiny", retries=0)
    assert b"triton.example" in asked[0]
    assert "secret" not in str(caught.value)


def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.setenv("all_proxy", "socks5://me:secret@127.0.0.1:1080")
    with pytest.raises(RequestError, match=r"all_proxy names a proxy of kind 'socks5'.*no_proxy"):
        Client("triton.example:80", "http", 5.0, "tiny")


def fail_to_open(address: str, protocol: Protocol, flavour: type[Any]) -> tuple[ServerError, dict[str, float]]:
    registry = CollectorRegistry()
    metrics = ClientMetrics(registry)
    with pytest.raises(ServerError) as caught:
        client = flavour(address, protocol, 10.0, "tiny", retries=1, metrics=metrics)
        asyncio.run(client.__aenter__())
    return caught.value, outcomes(registry)


@pytest.mark.parametrize("flavour", [Client, AsyncClient])
def test_an_unknown_name_and_a_refused_connection_are_told_apart_and_counted(
    protocol: Protocol, flavour: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    error, counted = fail_to_open("no-such-host.invalid:8001", protocol, flavour)
    assert type(error) is UnknownHostError, error
    assert counted == {"unknown_host": 2}
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        error, counted = fail_to_open(f"127.0.0.1:{holder.getsockname()[1]}", protocol, flavour)
    assert type(error) is UnreachableError, error
    assert counted == {"unreachable": 2}


def test_what_is_cancelled_is_counted(tmp_path: Path, protocol: Protocol) -> None:
    registry = CollectorRegistry()
    model = slow_model(tmp_path, 0.01, {})

    async def cancel(port: int) -> None:
        async with AsyncClient(
            f"127.0.0.1:{port}", protocol, model="tiny", metrics=ClientMetrics(registry)
        ) as client:
            with model.held():
                task = asyncio.create_task(client.generate(1, seed=7))
                while 7 not in model.begun():
                    await asyncio.sleep(0.02)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await client.generate(1, seed=8)

    with TritonServer(model.bundle, exit_seconds=0) as server:
        asyncio.run(cancel(port_of(server, protocol)))
    assert outcomes(registry) == {"cancelled": 1, "ok": 1}


GARBAGE = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnope",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort",
    b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere.invalid/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"",
]


@pytest.mark.parametrize("said", GARBAGE)
def test_what_is_not_tritons_answer_is_a_clear_error(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(2):
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(said)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(
            ServerError,
            match=rf"{address} (answers, but not as|failed:|serves tiny, which is not)|nothing answers http",
        ):
            Client(address, "http", 5.0, "tiny", retries=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"connection_seconds": 0}, "connection_seconds must be more than 0"),
        ({"connection_seconds": float("nan")}, "connection_seconds must be more than 0"),
        ({"connection_requests": 0}, "connection_requests must be at least 1"),
    ],
)
def test_limits_of_a_connection_are_checked(options: dict[str, Any], words: str) -> None:
    for flavour in (Client, AsyncClient):
        with pytest.raises(RequestError, match=words):
            flavour("h:1", **options)


def requests_of(server: TritonServer) -> int:
    """How many requests the server has answered."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{server.state.metrics_port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    (line,) = (line for line in lines if line.startswith('nv_inference_request_success{model="tiny"'))
    return int(float(line.split()[-1]))


@pytest.mark.parametrize("limits", [{"connection_requests": 20}, {"connection_seconds": 0.05}])
def test_new_connections_are_opened_and_no_request_fails_or_is_sent_twice(
    server: TritonServer, relay: Relay, protocol: Protocol, limits: dict[str, Any]
) -> None:
    before = requests_of(server)
    with open_client(relay, protocol, **limits) as client, ThreadPoolExecutor(4) as pool:
        for seed, got in enumerate(pool.map(lambda seed: client.generate(1, seed=seed, labels=1), range(400))):
            assert (got.images == expected_images([seed], [1])).all()
        wait_until(lambda: relay.connections >= 3)
    wait_until(lambda: requests_of(server) - before >= 400)
    assert requests_of(server) - before == 400
