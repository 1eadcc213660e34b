"""The client for asyncio; the same arguments, answers and errors as client.py's."""

import asyncio
import os
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from troika.errors import RequestError
from troika.serving.attempt import UNNAMED, Attempt
from troika.serving.client_metrics import ClientMetrics
from troika.serving.connections import CONNECTION_REQUESTS, CONNECTION_SECONDS, Connections, flavour
from troika.serving.wire import (
    Generated,
    Labels,
    ModelInfo,
    Patience,
    Protocol,
    Rows,
    check_address,
    latent_rows,
    only_model,
    read_answers,
    read_model_info,
    seed_rows,
    split,
)

_PARTS_AT_ONCE = 8
"""A single large call should not fill the server's queue."""


class AsyncClient:
    """A connection to one served model: `async with AsyncClient(...) as client: await client.generate(...)`.

    Any number of tasks of one event loop may use it at once; another loop, and a forked process, need a client of
    their own. Arguments and errors are those of `Client`; connecting and asking what the model is happens at
    `async with`.
    """

    model: ModelInfo
    """What the server says about its model; set by `async with`."""

    def __init__(
        self,
        url: str,
        protocol: Protocol = "grpc",
        timeout: float = 30.0,
        model: str | None = None,
        *,
        retries: int = 2,
        metrics: ClientMetrics | None = None,
        connection_seconds: float = CONNECTION_SECONDS,
        connection_requests: int = CONNECTION_REQUESTS,
    ) -> None:
        self._address = check_address(url, protocol, timeout, retries, model)
        self._protocol, self._timeout, self._retries, self._metrics = protocol, timeout, retries, metrics
        self._name = model
        self._wire = flavour(protocol)
        self._home: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._connections: Connections[Any] = Connections(
            lambda: self._wire.AsyncConnection(self._address), connection_seconds, connection_requests
        )

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            RequestError: the model must be named.
            ServerError: nothing answers there.
        """
        if self._home is not None:
            raise RequestError("this client has been opened before; open another")
        self._home = (os.getpid(), asyncio.get_running_loop())
        try:
            self.model = await self._read_model(self._name)
            if self._metrics:
                self._metrics.expect(self.model.name)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _close(self) -> None:
        for connection in self._connections.close():
            await connection.close()

    async def generate(self, count: int, seed: int = 0, labels: Labels = None) -> Generated:
        """Make `count` images; see `Client.generate`. Some parts of a large request are asked for at once."""
        self._check_home()
        return await self._infer(seed_rows(self.model, count, seed, labels))

    async def generate_from_latents(self, latents: NDArray[np.float32], labels: Labels = None) -> Generated:
        """Make one image from each latent; see `Client.generate_from_latents`."""
        self._check_home()
        return await self._infer(latent_rows(self.model, latents, labels))

    def _check_home(self) -> None:
        if self._home != (os.getpid(), asyncio.get_running_loop()):
            raise RequestError(
                "this client belongs to the event loop, and the process, in which `async with` has opened it; "
                "open one in each"
            )

    async def _infer(self, rows: Rows) -> Generated:
        few = asyncio.Semaphore(_PARTS_AT_ONCE)

        async def part_of(part: Rows) -> Any:
            async with few:
                return await self._ask(lambda seconds: self._wire.infer(self.model.name, part, seconds))

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part_of(part)) for part in split(rows, self.model.max_batch_size)]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return read_answers([task.result() for task in tasks], rows, self._address)

    async def _read_model(self, name: str | None) -> ModelInfo:
        if name is None:
            name = only_model(await self._ask(lambda _: self._wire.list_models(), UNNAMED), self._address)
        config = await self._ask(lambda _: self._wire.read_config(name), name)
        return read_model_info(name, config, self._address)

    async def _ask(self, request: Callable[[float], Any], opens: str | None = None) -> Any:
        """Make one request, given the seconds that it may take; see `Client._ask`."""
        patience = Patience(self._timeout, self._retries)
        while True:
            held = self._connections.take()
            attempt = Attempt(self._metrics, opens or self.model.name, opens is not None)
            try:
                # Over all: the libraries' own limits are for parts of a request.
                async with asyncio.timeout(patience.seconds):
                    answer = await held.connection.ask(request(patience.seconds), patience.seconds)
            except BaseException as error:
                pause = attempt.pause_after(error, self._wire.meaning_of(error, self._address), patience)
            else:
                attempt.succeed()
                return answer
            finally:
                for unused in self._connections.give_back(held, broken=attempt.is_broken):
                    await unused.close()
            await asyncio.sleep(pause)
