"""A small client of a model served by Triton: seeds and labels in, images out.

Needs numpy, grpcio and httpcore; an application installs the extra `client`. The same call gives the same
images as long as the model's digest is the same. For asyncio see async_client.py.
"""

import time
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from troika.serving.attempt import UNNAMED, Attempt
from troika.serving.client_metrics import ClientMetrics
from troika.serving.connections import CONNECTION_REQUESTS, CONNECTION_SECONDS, Connections, flavour
from troika.serving.wire import (
    MAX_SEED,
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

__all__ = ["MAX_SEED", "Client", "Generated", "ModelInfo"]


class Client:
    """A connection to one served model; a context manager. Any thread may use it, several at once, too.

    After a fork the child opens a connection of its own. See docs/guides/calling-triton.md for time-outs, forks,
    event loops and proxies.

    Args:
        url: `host:port`, with or without `http://` or `grpc://`; an IPv6 address in brackets.
        protocol: `grpc` or `http`; must fit the port.
        timeout: seconds after which a request, with its repetitions, is given up. The server is told, and does
            not begin what nobody waits for any more.
        model: the model's name; needed where the server does not tell which models it has, as most do not.
        retries: how often a request is repeated that the server did not answer or was too busy for.
        metrics: where requests are counted; see ClientMetrics.
        connection_seconds: after so long at most a new connection is opened, so that new servers behind one
            address get their share.
        connection_requests: after so many requests at most, too.

    Raises:
        RequestError: an argument is not usable, or the model must be named.
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
        connection_seconds: float = CONNECTION_SECONDS,
        connection_requests: int = CONNECTION_REQUESTS,
    ) -> None:
        self._address = check_address(url, protocol, timeout, retries, model)
        self._protocol, self._timeout, self._retries, self._metrics = protocol, timeout, retries, metrics
        self._wire = flavour(protocol)
        self._connections: Connections[Any] = Connections(
            lambda: self._wire.Connection(self._address), connection_seconds, connection_requests
        )
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
            RequestError: an argument is not usable (named), the server refused the request, or the client is
                closed.
            OverloadedError: the server is too busy.
            DeadlineError: the answer did not come in time.
            UnreachableError: the server cannot be reached, or the connection was lost.
            UnknownHostError: the server's name stands for no address.
            ServerError: the server failed, or changed its model in between.
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
        """End the connection; what other threads still wait for is answered first."""
        for connection in self._connections.close():
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _infer(self, rows: Rows) -> Generated:
        answers = []
        for part in split(rows, self.model.max_batch_size):

            def request(seconds: float, part: Rows = part) -> Any:
                return self._wire.infer(self.model.name, part, seconds)

            answers.append(self._ask(request))
        return read_answers(answers, rows, self._address)

    def _read_model(self, name: str | None) -> ModelInfo:
        if name is None:
            name = only_model(self._ask(lambda _: self._wire.list_models(), opens=UNNAMED), self._address)
        config = self._ask(lambda _: self._wire.read_config(name), opens=name)
        return read_model_info(name, config, self._address)

    def _ask(self, request: Callable[[float], Any], opens: str | None = None) -> Any:
        """Make one request, given the seconds that it may take; translate and repeat what goes wrong.

        Args:
            request: returns it.
            opens: the model's name where the request is a part of opening the client.
        """
        patience = Patience(self._timeout, self._retries)
        while True:
            held = self._connections.take()
            attempt = Attempt(self._metrics, opens or self.model.name, opens is not None)
            try:
                answer = held.connection.ask(request(patience.seconds), patience.seconds)
            except BaseException as error:
                pause = attempt.pause_after(error, self._wire.meaning_of(error, self._address), patience)
            else:
                attempt.succeed()
                return answer
            finally:
                for unused in self._connections.give_back(held, broken=attempt.is_broken):
                    unused.close()
            time.sleep(pause)
