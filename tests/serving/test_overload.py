"""More requests than a server can take: refused at once, counted, told; and afterwards all is as before."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from slow_model import recorded, slow_bundle
from tiny_bundle import expected_images

from troika.errors import DeadlineError, OverloadedError
from troika.serving import wire
from troika.serving.client import Client
from troika.serving.client_metrics import ClientMetrics
from troika.serving.triton import TritonServer
from troika.serving.wire import Protocol

SECONDS = 0.3
QUEUE = 4


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("record") / "seeds"


@pytest.fixture(scope="module")
def slow_server(tmp_path_factory: pytest.TempPathFactory, record: Path) -> Iterator[TritonServer]:
    changes = {"max_queue_size: 1024": f"max_queue_size: {QUEUE}"}
    folder = slow_bundle(tmp_path_factory.mktemp("slow") / "bundle", SECONDS, record, changes)
    with TritonServer(folder, exit_seconds=0) as server:
        yield server


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> Any:
    return request.param


def connect(server: TritonServer, protocol: Protocol, **options: Any) -> Client:
    port = server.state.grpc_port if protocol == "grpc" else server.state.http_port
    return Client(f"127.0.0.1:{port}", protocol, model="tiny", **options)


def test_what_does_not_fit_is_refused_at_once_and_counted(slow_server: TritonServer, protocol: Protocol) -> None:
    registry = CollectorRegistry()
    metrics = ClientMetrics(registry)

    def ask(seed: int) -> tuple[float, Any]:
        with connect(slow_server, protocol, retries=0, metrics=metrics) as client:
            started = time.monotonic()
            try:
                result: Any = client.generate(1, seed=seed, labels=1).images
            except OverloadedError as error:
                result = error
            return time.monotonic() - started, result

    with ThreadPoolExecutor(30) as pool:
        answers = dict(zip(range(1, 31), pool.map(ask, range(1, 31)), strict=True))
    refused = {seed: took for seed, (took, result) in answers.items() if isinstance(result, OverloadedError)}
    accepted = {seed: took for seed, (took, result) in answers.items() if seed not in refused}
    # One is at work and QUEUE wait; a few more where a place became free meanwhile.
    assert QUEUE <= len(accepted) <= QUEUE + 4
    assert max(refused.values()) < max(accepted.values()) / 2
    for seed in accepted:
        assert (answers[seed][1] == expected_images([seed], [1])).all()

    def counted(outcome: str) -> float | None:
        labels = {"model": "tiny", "outcome": outcome}
        return registry.get_sample_value("troika_client_requests_total", labels)

    assert counted("overloaded") == len(refused)
    assert counted("ok") == len(accepted)
    with connect(slow_server, protocol, retries=0) as client:
        assert (client.generate(1, seed=77, labels=2).images == expected_images([77], [2])).all()


def fill(server: TritonServer, seeds: range) -> ThreadPoolExecutor:
    """Requests that keep the server busy for SECONDS each."""
    pool = ThreadPoolExecutor(len(seeds))

    def ask(seed: int) -> None:
        with connect(server, "grpc", retries=0) as client:
            client.generate(1, seed=seed, labels=1)

    for seed in seeds:
        pool.submit(ask, seed)
    time.sleep(0.15)
    return pool


def test_what_nobody_waits_for_any_more_is_not_begun(
    slow_server: TritonServer, record: Path, protocol: Protocol
) -> None:
    with (
        connect(slow_server, protocol, timeout=SECONDS * 1.2) as client,
        fill(slow_server, range(100, 104)),
        pytest.raises(DeadlineError, match="did not answer in time"),
    ):
        client.generate(1, seed=4711, labels=1)
    with connect(slow_server, protocol) as client:
        client.generate(1, seed=4712, labels=1)
    seeds = recorded(record)
    assert 4711 not in seeds
    assert {100, 101, 102, 103, 4712} <= set(seeds)  # The control: what was waited for was done.


def test_a_refused_request_is_repeated_a_bounded_number_of_times(
    slow_server: TritonServer, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So short that the server is as full at the last try as at the first, however slow this machine is.
    monkeypatch.setattr(wire, "_FIRST_PAUSE_SECONDS", 0.001)
    registry = CollectorRegistry()
    labels = {"model": "tiny", "outcome": "overloaded"}
    with (
        connect(slow_server, protocol, retries=2, metrics=ClientMetrics(registry)) as client,
        fill(slow_server, range(200, 201 + QUEUE)),
    ):
        with pytest.raises(OverloadedError, match="takes no more requests now"):
            client.generate(1, seed=1, labels=1)
        assert registry.get_sample_value("troika_client_requests_total", labels) == 3


def test_a_repeated_request_gets_through_when_there_is_room(slow_server: TritonServer, protocol: Protocol) -> None:
    with (
        connect(slow_server, protocol, retries=8) as client,
        fill(slow_server, range(300, 301 + QUEUE)),
    ):
        assert (client.generate(1, seed=9, labels=1).images == expected_images([9], [1])).all()
