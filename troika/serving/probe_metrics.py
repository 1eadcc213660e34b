"""What the quality probe tells Prometheus. Measures nothing itself: quality_probe.py does."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from troika.serving.client_metrics import ClientMetrics

GOLDEN_RESULTS = ("same", "differs", "unknown")


class ProbeMetrics:
    """All metrics of one probe.

    Args:
        registry: where they are registered, such as prometheus_client.REGISTRY.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.client = ClientMetrics(registry)
        """Requests to the service as its users make them; those to single replicas are not among them."""
        self.rounds = Counter(
            "troika_probe_rounds",
            "Rounds by result: ok; failed: something in it could not be asked or read.",
            ["result"],
            registry=registry,
        )
        self.last_round = _gauge(
            registry, "last_round_timestamp_seconds", "When the last round ended, however it went."
        )
        self.replicas = _gauge(registry, "replicas", "Replicas that the service has now.", "model")
        self.replica_answers = _gauge(
            registry, "replica_answers", "Whether a replica answered in the last round.", "model", "replica"
        )
        self.served = _gauge(
            registry, "served_info", "What each replica says that it serves.", "model", "digest", "replica"
        )
        self.release = _gauge(
            registry,
            "release_info",
            "What should be served; `source` is git, or settings where the probe is not given Git.",
            *("environment", "model", "digest", "version", "source"),
        )
        self.release_read = _gauge(
            registry, "release_read_timestamp_seconds", "When the release was last read.", "source"
        )
        self.store_up = _gauge(registry, "store_up", "Whether the model store answered last time.", "store")
        self.golden_difference = _gauge(
            registry,
            "golden_difference_levels",
            "Largest difference between a replica's golden images and those of the bundle, of 255 levels.",
            *("model", "digest", "replica"),
        )
        self.golden_checks = Counter(
            "troika_probe_golden_checks",
            "Golden checks by result: same, differs, unknown (the served digest is not in the store).",
            ["model", "result"],
            registry=registry,
        )
        self.disagreement = _gauge(
            registry,
            "replica_disagreement_levels",
            "Largest difference between replicas' images of the same fresh seeds, of 255 levels.",
            *("model", "digest"),
        )
        self.quality = _gauge(
            registry, "quality", "The gate's figures of the last window of images.", "model", "digest", "figure"
        )
        self.quality_limit = _gauge(
            registry, "quality_limit", "The gate's limits, by the released verdict.", "model", "figure", "bound"
        )
        self.quality_expected = _gauge(
            registry,
            "quality_expected",
            "Where 999 of 1000 windows of the released model lie, by its verdict.",
            *("model", "figure", "bound"),
        )
        self.quality_watched = _gauge(
            registry, "quality_watched", "Whether the released verdict has a reference to measure with.", "model"
        )
        self.quality_timestamp = _gauge(
            registry, "quality_timestamp_seconds", "When the last window was measured.", "model", "digest"
        )
        self.quality_images = Counter(
            "troika_probe_quality_images",
            "Fresh images that the probe was given.",
            ["model", "digest"],
            registry=registry,
        )
        self.quality_window = _gauge(
            registry, "quality_window_images", "Images in one window: as many as in a batch of the gate.", "model"
        )

    def expect(self, model: str) -> None:
        """Begin a model's counters at 0: Prometheus cannot see the first step of one that begins at 1."""
        self.client.expect(model)
        for result in GOLDEN_RESULTS:
            self.golden_checks.labels(model, result)
        for result in ("ok", "failed"):
            self.rounds.labels(result)


def replace_all(gauge: Gauge, values: Mapping[tuple[str, ...], float]) -> None:
    """Give a gauge exactly these series; one that is still true never vanishes meanwhile."""
    for labels, value in values.items():
        gauge.labels(*labels).set(value)
    (family,) = gauge.collect()
    for sample in family.samples:
        if tuple(sample.labels.values()) not in values:
            gauge.remove(*sample.labels.values())


def _gauge(registry: CollectorRegistry, name: str, words: str, *labels: str) -> Gauge:
    return Gauge(f"troika_probe_{name}", words, labels, registry=registry)
