"""A small client of a model served by Triton: seeds and labels in, images out.

Needs numpy and tritonclient only; an application installs `troika[client]`. The same call gives the same
images as long as the model's digest is the same. For asyncio see async_client.py.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from troika.errors import RequestError, ServerError
from troika.serving.client_metrics import ClientMetrics
from troika.serving.wire import (
    MAX_SEED,
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

__all__ = ["MAX_SEED", "Client", "Generated", "ModelInfo"]


class Client:
    """A connection to one served model; a context manager. One thread at a time may use it; over HTTP only the
    one that opened it, as tritonclient's connection (gevent) belongs to a thread.

    Args:
        url: `host:port`, with or without `http://` or `grpc://`.
        protocol: `grpc` or `http`; must fit the port.
        timeout: seconds after which a request, with its repetitions, is given up. The server is told, and does
            not begin what nobody waits for any more.
        model: the model's name; needed where the server does not tell which models it has, as most do not.
        retries: how often a request is repeated that the server did not answer or was too busy for.
        metrics: where requests are counted; see ClientMetrics.

    Raises:
        RequestError: url, protocol, timeout or retries is not usable, or the model must be named.
        ServerError: nothing answers there.
    """

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
        self._thread = threading.current_thread()
        self._triton, options = _flavour(protocol, timeout)
        self._connection = self._triton.InferenceServerClient(self._address, **options)
        try:
            self.model = self._read_model(model)
            if metrics:
                metrics.expect(self.model.name)
        except BaseException:
            self.close()
            raise

    def generate(self, count: int, seed: int = 0, labels: Labels = None) -> Generated:
        """Make `count` images; image i is drawn with seed + i. Many are asked for in several requests.

        Args:
            count: at least 1.
            seed: seed and seed + count - 1 must be in 0..2**63-1.
            labels: one class for all, or one per image: a name of `model.classes`, or a number in
                0..num_classes-1. None takes the classes in turn, or nothing where the model is unconditional.

        Raises:
            RequestError: an argument is not usable (named), the server refused the request, or another thread
                opened this client for HTTP.
            OverloadedError: the server is too busy.
            DeadlineError: the answer did not come in time.
            ServerError: the server failed, cannot be reached, or changed its model in between.
        """
        return self._infer(seed_rows(self.model, count, seed, labels))

    def generate_from_latents(self, latents: NDArray[np.float32], labels: Labels = None) -> Generated:
        """Make one image from each latent.

        Args:
            latents: (N, model.latent_size), each number in -10..10; the model was trained on normal numbers.
            labels: as for `generate`.

        Raises:
            RequestError: and the other errors of `generate`.
        """
        return self._infer(latent_rows(self.model, latents, labels))

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _infer(self, rows: Rows) -> Generated:
        answers = []
        for part in split(rows, self.model.max_batch_size):
            inputs, outputs = inputs_and_outputs(self._triton, part)

            def ask(seconds: float, inputs: list[Any] = inputs, outputs: list[Any] = outputs) -> Any:
                limit = {"client_timeout": seconds} if self._protocol == "grpc" else {}
                microseconds = int(seconds * 1e6)
                return self._connection.infer(
                    self.model.name, inputs, outputs=outputs, timeout=microseconds, **limit
                )

            answers.append(self._ask(ask, self._metrics))
        return read_answers(answers, rows, self._address)

    def _read_model(self, name: str | None) -> ModelInfo:
        def options(seconds: float) -> dict[str, Any]:
            return {"client_timeout": seconds, "as_json": True} if self._protocol == "grpc" else {}

        if name is None:
            index = self._ask(lambda seconds: self._connection.get_model_repository_index(**options(seconds)))
            models = index.get("models", []) if self._protocol == "grpc" else index
            name = only_model([entry["name"] for entry in models], self._address)
        config = self._ask(lambda seconds: self._connection.get_model_config(name, **options(seconds)))
        return read_model_info(name, config["config"] if self._protocol == "grpc" else config, self._address)

    def _ask(self, request: Callable[[float], Any], metrics: ClientMetrics | None = None) -> Any:
        """Make one request, with the seconds that it may take; translate and repeat what goes wrong."""
        if self._protocol == "http" and self._thread is not threading.current_thread():
            raise RequestError("over HTTP each thread needs a Client of its own; gRPC's may be handed on")
        patience = Patience(self._timeout, self._retries)
        while True:
            started = time.monotonic()
            try:
                answer = request(patience.seconds)
            except Exception as error:
                meaning = meaning_of(error, self._address, self._protocol)
                if meaning is None:
                    raise
                if metrics:
                    metrics.count(self.model.name, time.monotonic() - started, meaning)
                if isinstance(meaning, RequestError):
                    raise meaning from None
                pause = _pause(patience, meaning)
            else:
                if metrics:
                    metrics.count(self.model.name, time.monotonic() - started)
                return answer
            time.sleep(pause)


def _pause(patience: Patience, error: ServerError) -> float:
    try:
        return patience.pause_after(error)
    except ServerError:
        raise error from None


def _flavour(protocol: str, timeout: float) -> tuple[Any, dict[str, Any]]:
    """The half of tritonclient that is wanted, imported only now, and its options for a connection."""
    try:
        if protocol == "grpc":
            import tritonclient.grpc as triton  # noqa: PLC0415

            return triton, {}
        import tritonclient.http as triton  # noqa: PLC0415

    except (ImportError, RuntimeError) as error:
        raise RequestError(f"protocol {protocol} needs `pip install troika[client]`: {error}") from None
    return triton, {"connection_timeout": timeout, "network_timeout": timeout}
