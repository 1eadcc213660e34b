"""One try of a client's request: counts how it ends, and decides whether there should be another."""

import asyncio
import time

from troika.errors import DeadlineError, RequestError, ServerError, UnknownHostError, UnreachableError
from troika.serving.client_metrics import ClientMetrics
from troika.serving.wire import Patience

UNNAMED = "unknown"
"""What is counted as the model's name while a client that was given none asks for it."""


class Attempt:
    """One try, which begins now.

    Args:
        metrics: where it is counted, if anywhere.
        model: the model's name.
        opens: whether it is a part of opening a client: its success is not counted, as no images were asked for.
    """

    def __init__(self, metrics: ClientMetrics | None, model: str, opens: bool) -> None:
        self._metrics, self._model, self._opens = metrics, model, opens
        self._started = time.monotonic()
        self.is_broken = False
        """Whether its connection may be the cause of its failure."""

    def succeed(self) -> None:
        """Count a success."""
        if self._metrics and not self._opens:
            self._metrics.count(self._model, time.monotonic() - self._started)

    def pause_after(
        self, error: BaseException, meaning: RequestError | ServerError | None, patience: Patience
    ) -> float:
        """Count a failure; return the seconds to wait before the next try.

        Args:
            error: what the connection has raised.
            meaning: what it means, if that is known.
            patience: whether there should be a next try.

        Raises:
            BaseException: there should be none: `meaning`, or `error` where nobody knows what it means.
        """
        known = (RequestError, ServerError)
        self.is_broken = isinstance(meaning, DeadlineError | UnreachableError | UnknownHostError) or (
            meaning is None and isinstance(error, Exception)
        )
        if self._metrics and (meaning is not None or is_cancelled(error)):
            self._metrics.count(self._model, time.monotonic() - self._started, meaning or error)
        if meaning is None:
            raise error
        if isinstance(meaning, RequestError):
            raise meaning from None
        try:
            return patience.pause_after(meaning)
        except known:
            raise meaning from None


def is_cancelled(error: BaseException) -> bool:
    """Return whether the caller has given the request up: a cancelled task, Ctrl-C, or the end of the program."""
    return isinstance(error, asyncio.CancelledError) or not isinstance(error, Exception)
