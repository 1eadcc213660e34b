"""What a client counts, for Prometheus: only the asking side sees every request that a full queue turned away."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from troika.errors import (
    DeadlineError,
    OverloadedError,
    RequestError,
    ServingError,
    UnknownHostError,
    UnreachableError,
)

_OUTCOMES: dict[type[BaseException], str] = {
    RequestError: "refused",
    OverloadedError: "overloaded",
    DeadlineError: "late",
    UnreachableError: "unreachable",
    UnknownHostError: "unknown_host",
}
OUTCOMES = ("ok", *_OUTCOMES.values(), "cancelled", "failed")
"""Of these the caller has brought about `refused` and `cancelled`; all but them and `ok` are the server's."""


class ClientMetrics:
    """Requests to served models; give one to every client of a process.

    Args:
        registry: where they are registered, such as prometheus_client.REGISTRY.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "troika_client_requests",
            f"Requests by outcome: {', '.join(OUTCOMES)}. Repetitions count, and failures to connect.",
            ["model", "outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "troika_client_request_seconds",
            "Time from a request to its answer.",
            ["model", "outcome"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )

    def expect(self, model: str) -> None:
        """Begin all counters of a model at 0: Prometheus cannot see the first step of one that begins at 1."""
        for outcome in OUTCOMES:
            self._requests.labels(model, outcome)
            self._seconds.labels(model, outcome)

    def count(self, model: str, seconds: float, error: BaseException | None = None) -> None:
        """Count one request that took so long and ended so; an error that is not Troika's is its cancellation."""
        outcome = "ok"
        if error is not None:
            outcome = _OUTCOMES.get(type(error), "failed" if isinstance(error, ServingError) else "cancelled")
        self._requests.labels(model, outcome).inc()
        self._seconds.labels(model, outcome).observe(seconds)
