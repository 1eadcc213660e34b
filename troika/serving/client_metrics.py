"""What a client counts, for Prometheus: only the asking side sees every request that a full queue turned away."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from troika.errors import DeadlineError, OverloadedError, RequestError, ServerError

OUTCOMES = ("ok", "refused", "overloaded", "late", "failed")


class ClientMetrics:
    """Requests to served models; give one to every client of a process.

    Args:
        registry: where they are registered, such as prometheus_client.REGISTRY.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "troika_client_requests",
            "Requests by outcome: ok, refused, overloaded, late, failed. Repetitions count.",
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

    def count(self, model: str, seconds: float, error: RequestError | ServerError | None = None) -> None:
        """Count one request that took so long and ended so."""
        kinds = {RequestError: "refused", OverloadedError: "overloaded", DeadlineError: "late"}
        outcome = "ok" if error is None else kinds.get(type(error), "failed")
        self._requests.labels(model, outcome).inc()
        self._seconds.labels(model, outcome).observe(seconds)
