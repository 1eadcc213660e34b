"""More requests than a server can take: refused at once, counted, told; and afterwards all is as before.

The model is held while the test brings about what it is about, so that no outcome depends on the machine's speed.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from slow_model import SlowModel, slow_model
from tiny_bundle import expected_images
from waiting import PATIENCE, wait_until

from troika.errors import DeadlineError, OverloadedError
from troika.serving import wire
from troika.serving.client import Client
from troika.serving.client_metrics import ClientMetrics
from troika.serving.triton import TritonServer
from troika.serving.wire import Protocol

SECONDS = 0.05
QUEUE = 4


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> SlowModel:
    return slow_model(
        tmp_path_factory.mktemp("slow"), SECONDS, {"max_queue_size: 1024": f"max_queue_size: {QUEUE}"}
    )


@pytest.fixture(scope="module")
def slow_server(slow: SlowModel) -> Iterator[TritonServer]:
    with TritonServer(slow.bundle, exit_seconds=0) as server:
        yield server


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> Any:
    return request.param


def connect(server: TritonServer, protocol: Protocol, timeout: float = PATIENCE, **options: Any) -> Client:
    port = server.state.grpc_port if protocol == "grpc" else server.state.http_port
    return Client(f"127.0.0.1:{port}", protocol, model="tiny", timeout=timeout, **options)


def ask(server: TritonServer, protocol: Protocol, seed: int, **options: Any) -> Any:
    """The images, or the refusal; one try."""
    with connect(server, protocol, retries=0, **options) as client:
        try:
            return client.generate(1, seed=seed, labels=1).images
        except OverloadedError as error:
            return error


def put_to_work(
    pool: ThreadPoolExecutor, slow: SlowModel, server: TritonServer, protocol: Protocol, seed: int, **options: Any
) -> "Future[Any]":
    """Send a request and wait until the held model has begun with it, and its place in the queue is free again."""
    before = slow.begun().count(seed)
    answer = pool.submit(ask, server, protocol, seed, **options)
    wait_until(lambda: slow.begun().count(seed) > before)
    return answer


def refusals(answers: "list[Future[Any]]") -> int:
    return sum(answer.done() and isinstance(answer.result(), OverloadedError) for answer in answers)


def counted(registry: CollectorRegistry, outcome: str) -> float:
    labels = {"model": "tiny", "outcome": outcome}
    return registry.get_sample_value("troika_client_requests_total", labels) or 0


@contextmanager
def full(slow: SlowModel, server: TritonServer, seeds: range) -> Iterator[None]:
    """The server takes no more requests until the model is let go; all it has taken is answered at the end."""
    with ThreadPoolExecutor(len(seeds)) as pool, slow.held():
        answers = [put_to_work(pool, slow, server, "grpc", seeds[0])]
        answers += [pool.submit(ask, server, "grpc", seed) for seed in seeds[1:]]
        wait_until(lambda: refusals(answers) > 0)
        yield


def test_what_does_not_fit_is_refused_at_once_and_counted(
    slow: SlowModel, slow_server: TritonServer, protocol: Protocol
) -> None:
    registry = CollectorRegistry()
    metrics = ClientMetrics(registry)
    seeds = range(1, 31)
    with ThreadPoolExecutor(len(seeds)) as pool, slow.held():
        answers = [put_to_work(pool, slow, slow_server, protocol, seeds[0], metrics=metrics)]
        answers += [pool.submit(ask, slow_server, protocol, seed, metrics=metrics) for seed in seeds[1:]]
        # One is at work and QUEUE wait. That the rest is refused while nothing moves is what `at once` means.
        wait_until(lambda: refusals(answers) == len(seeds) - 1 - QUEUE)
        assert sum(answer.done() for answer in answers) == len(seeds) - 1 - QUEUE
    accepted = {
        seed: answer.result()
        for seed, answer in zip(seeds, answers, strict=True)
        if not isinstance(answer.result(), OverloadedError)
    }
    assert len(accepted) == 1 + QUEUE
    for seed, images in accepted.items():
        assert (images == expected_images([seed], [1])).all()
    assert counted(registry, "overloaded") == len(seeds) - len(accepted)
    assert counted(registry, "ok") == len(accepted)
    with connect(slow_server, protocol, retries=0) as client:
        assert (client.generate(1, seed=77, labels=2).images == expected_images([77], [2])).all()


def test_what_nobody_waits_for_any_more_is_not_begun(
    slow: SlowModel, slow_server: TritonServer, protocol: Protocol
) -> None:
    at_work, given_up, waited_for = [seed + (protocol == "http") for seed in (100, 4710, 4720)]
    with ThreadPoolExecutor(1) as pool, connect(slow_server, protocol) as client, slow.held():
        answer = put_to_work(pool, slow, slow_server, "grpc", at_work)
        client._timeout = 0.5  # from now on: connecting may take as long as it takes
        with pytest.raises(DeadlineError, match="did not answer in time"):
            client.generate(1, seed=given_up, labels=1)
    assert (answer.result() == expected_images([at_work], [1])).all()
    with connect(slow_server, protocol) as client:
        client.generate(1, seed=waited_for, labels=1)
    begun = slow.begun()
    assert given_up not in begun
    assert waited_for in begun  # The control: what was waited for was done.


def test_a_refused_request_is_repeated_a_bounded_number_of_times(
    slow: SlowModel, slow_server: TritonServer, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_FIRST_PAUSE_SECONDS", 0.001)
    registry = CollectorRegistry()
    with (
        connect(slow_server, protocol, retries=2, metrics=ClientMetrics(registry)) as client,
        full(slow, slow_server, range(200, 210)),
    ):
        with pytest.raises(OverloadedError, match="takes no more requests now"):
            client.generate(1, seed=1, labels=1)
        assert counted(registry, "overloaded") == 3


def test_a_repeated_request_gets_through_when_there_is_room(
    slow: SlowModel, slow_server: TritonServer, protocol: Protocol
) -> None:
    registry = CollectorRegistry()

    def ask_again() -> Any:
        with connect(slow_server, protocol, retries=10, metrics=ClientMetrics(registry)) as client:
            return client.generate(1, seed=9, labels=1).images

    with ThreadPoolExecutor(1) as pool:
        with full(slow, slow_server, range(300, 310)):
            answer = pool.submit(ask_again)
            wait_until(lambda: counted(registry, "overloaded") > 0)
        assert (answer.result() == expected_images([9], [1])).all()
    assert counted(registry, "ok") == 1
