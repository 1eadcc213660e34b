"""The client for asyncio; the same arguments, answers and errors as client.py's."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from troika.errors import RequestError
from troika.serving.client_metrics import ClientMetrics
from troika.serving.wire import (
    Generated,
    Labels,
    ModelInfo,
    Patience,
    Protocol,
    Rows,
    check_address,
    inputs_and_outputs,
    latent_rows,
    meaning_of,
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

    Any number of tasks may use it at once. Arguments and errors are those of `Client`; connecting and asking what
    the model is happens at `async with`.
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
    ) -> None:
        self._address = check_address(url, protocol, timeout, retries)
        self._protocol, self._timeout, self._retries, self._metrics = protocol, timeout, retries, metrics
        self._name = model

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            RequestError: the model must be named.
            ServerError: nothing answers there.
        """
        self._triton, options = _flavour(self._protocol, self._timeout)
        self._connection = self._triton.InferenceServerClient(self._address, **options)
        try:
            self.model = await self._read_model(self._name)
            if self._metrics:
                self._metrics.expect(self.model.name)
        except BaseException:
            await self._connection.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def generate(self, count: int, seed: int = 0, labels: Labels = None) -> Generated:
        """Make `count` images; see `Client.generate`. Some parts of a large request are asked for at once."""
        return await self._infer(seed_rows(self.model, count, seed, labels))

    async def generate_from_latents(self, latents: NDArray[np.float32], labels: Labels = None) -> Generated:
        """Make one image from each latent; see `Client.generate_from_latents`."""
        return await self._infer(latent_rows(self.model, latents, labels))

    async def _infer(self, rows: Rows) -> Generated:
        few = asyncio.Semaphore(_PARTS_AT_ONCE)

        async def part_of(part: Rows) -> Any:
            inputs, outputs = inputs_and_outputs(self._triton, part)

            async def ask(seconds: float) -> Any:
                limit = {"client_timeout": seconds} if self._protocol == "grpc" else {}
                return await self._connection.infer(
                    self.model.name, inputs, outputs=outputs, timeout=int(seconds * 1e6), **limit
                )

            async with few:
                return await self._ask(ask, self._metrics)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part_of(part)) for part in split(rows, self.model.max_batch_size)]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return read_answers([task.result() for task in tasks], rows, self._address)

    async def _read_model(self, name: str | None) -> ModelInfo:
        def options(seconds: float) -> dict[str, Any]:
            return {"client_timeout": seconds, "as_json": True} if self._protocol == "grpc" else {}

        if name is None:
            index = await self._ask(
                lambda seconds: self._connection.get_model_repository_index(**options(seconds))
            )
            models = index.get("models", []) if self._protocol == "grpc" else index
            name = only_model([entry["name"] for entry in models], self._address)
        config = await self._ask(lambda seconds: self._connection.get_model_config(name, **options(seconds)))
        return read_model_info(name, config["config"] if self._protocol == "grpc" else config, self._address)

    async def _ask(self, request: Callable[[float], Awaitable[Any]], metrics: ClientMetrics | None = None) -> Any:
        """Make one request, with the seconds that it may take; translate and repeat what goes wrong."""
        patience = Patience(self._timeout, self._retries)
        while True:
            started = time.monotonic()
            try:
                # tritonclient's asyncio HTTP client takes a limit for a connection only, not for a request.
                async with asyncio.timeout(patience.seconds):
                    answer = await request(patience.seconds)
            except Exception as error:
                meaning = meaning_of(error, self._address, self._protocol)
                if meaning is None:
                    raise
                if metrics:
                    metrics.count(self.model.name, time.monotonic() - started, meaning)
                if isinstance(meaning, RequestError):
                    raise meaning from None
                await asyncio.sleep(patience.pause_after(meaning))
            else:
                if metrics:
                    metrics.count(self.model.name, time.monotonic() - started)
                return answer


def _flavour(protocol: str, timeout: float) -> tuple[Any, dict[str, Any]]:
    try:
        if protocol == "grpc":
            import tritonclient.grpc.aio as triton  # noqa: PLC0415

            return triton, {}
        import tritonclient.http.aio as triton  # noqa: PLC0415

    except (ImportError, RuntimeError) as error:
        raise RequestError(f"protocol {protocol} needs `pip install troika[client]`: {error}") from None
    return triton, {"conn_timeout": timeout}
