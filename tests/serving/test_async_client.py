"""The asyncio client gives what the other one gives, and what is special to it."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from tiny_bundle import expected_images, expected_of_latents

from troika.errors import DeadlineError, RequestError, ServerError
from troika.serving.async_client import AsyncClient
from troika.serving.client_metrics import ClientMetrics
from troika.serving.triton import TritonServer
from troika.serving.wire import Protocol


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> Any:
    return request.param


def run(
    server: TritonServer, protocol: Protocol, use: Callable[[AsyncClient], Awaitable[Any]], **options: Any
) -> Any:
    port = server.state.grpc_port if protocol == "grpc" else server.state.http_port

    async def whole() -> Any:
        async with AsyncClient(f"127.0.0.1:{port}", protocol, model="tiny", **options) as client:
            return await use(client)

    return asyncio.run(whole())


def test_images_are_those_of_the_graph(server: TritonServer, protocol: Protocol) -> None:
    got = run(server, protocol, lambda client: client.generate(150, seed=7))
    assert (got.images == expected_images(range(7, 157), [i % 10 for i in range(150)])).all()
    assert got.seeds.tolist() == list(range(7, 157))
    assert got.model_digest == server.state.digest
    latents = [[5.0, 0.0], [-3.0, 1.0]]
    got = run(server, protocol, lambda client: client.generate_from_latents(np.array(latents), labels=[1, 2]))
    assert (got.images == expected_of_latents(latents)).all()


def test_many_tasks_may_use_one_client_at_once(server: TritonServer, protocol: Protocol) -> None:
    async def use(client: AsyncClient) -> Any:
        return await asyncio.gather(*(client.generate(3, seed=seed) for seed in range(200)))

    for seed, got in enumerate(run(server, protocol, use)):
        assert (got.images == expected_images(range(seed, seed + 3), [0, 1, 2])).all()


def test_errors_are_those_of_the_other_client(server: TritonServer, protocol: Protocol) -> None:
    with pytest.raises(RequestError, match=r"labels must be in 0\.\.9"):
        run(server, protocol, lambda client: client.generate(1, labels=10))
    with pytest.raises(RequestError, match="name one with model="):
        asyncio.run(_connect(AsyncClient(f"127.0.0.1:{server.state.http_port}", "http")))
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        with pytest.raises(ServerError, match="nothing answers"):
            asyncio.run(_connect(AsyncClient(f"127.0.0.1:{holder.getsockname()[1]}", protocol, 5, "tiny")))


def test_a_server_that_says_nothing_is_given_up_in_time(protocol: Protocol) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises((DeadlineError, ServerError), match=r"did not answer in time|nothing answers"):
            asyncio.run(asyncio.wait_for(_connect(AsyncClient(address, protocol, 0.5, "tiny")), 5))


def test_requests_are_counted(server: TritonServer, protocol: Protocol) -> None:
    registry = CollectorRegistry()
    run(server, protocol, lambda client: client.generate(130), metrics=ClientMetrics(registry))
    named = {"model": "tiny", "outcome": "ok"}
    assert registry.get_sample_value("troika_client_requests_total", named) == 3
    assert registry.get_sample_value("troika_client_request_seconds_count", named) == 3


async def _connect(client: AsyncClient) -> None:
    async with client:
        pass
