"""What the quality probe does in one round.

It asks the service as a user does (availability and latency), asks every replica for its golden images and for one
fresh image (what it serves, whether it answers as promised, whether all agree), and adds fresh images to a window.
A full window, as large as a batch of the gate, is measured with the gate's own figures against the reference of
the released verdict. Repairs and decides nothing; quality_probe.py runs it.
"""

import secrets
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from troika.credentials import without_credentials
from troika.errors import ParameterError, ReleaseError, ServerError, StoreError, TroikaError
from troika.quality.measures import labels_to_ask_for
from troika.serving.address import check_host_port, split_host_port
from troika.serving.client import Client, Generated
from troika.serving.golden import TOLERANCE, GoldenAnswers
from troika.serving.probe_metrics import ProbeMetrics, replace_all
from troika.serving.promise import (
    Promise,
    Promised,
    PromiseSource,
    read_golden_of,
    read_promised,
)
from troika.serving.wire import Protocol, check_address

_SEEDS = 2**62
"""Fresh seeds are drawn below it; those of the gate and of golden images are small."""


@dataclass(frozen=True)
class Target:
    """Where the model is served."""

    service: str
    """host:port as users know it."""
    replicas: str
    """host:port whose name stands for the addresses of all replicas, such as a headless Service."""
    protocol: Protocol = "grpc"
    timeout: float = 10.0


@dataclass
class _Window:
    """Fresh images of one digest that have not been measured yet."""

    images: list[NDArray[np.uint8]] = field(default_factory=list)
    labels: list[NDArray[np.int64]] = field(default_factory=list)

    def take(
        self, size: int, mix: NDArray[np.int64] | None, random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None] | None:
        """Remove and return `size` images with their labels, in random order; None while there are fewer.

        The order matters: `Reference.figures` compares only the first images with their neighbours where the
        reference holds fewer than `size`, and the first images of a sorted window are of a few classes.

        Args:
            size: number of images.
            mix: number of images of each label, (classes,), `size` in all; None for a model without labels.
            random: source of the order.
        """
        if sum(map(len, self.images)) < size:
            return None
        images = np.concatenate(self.images)
        if mix is None:
            self.images = [images[size:]]
            return images[:size], None
        labels = np.concatenate(self.labels)
        taken = np.concatenate([np.flatnonzero(labels == label)[:count] for label, count in enumerate(mix)])
        if len(taken) < size:
            return None
        self.images, self.labels = [np.delete(images, taken, axis=0)], [np.delete(labels, taken)]
        taken = random.permutation(taken)
        return images[taken], labels[taken]


@dataclass
class _Plan:
    """Which labels are asked for: those of one window, over and over, so that each has the gate's class mix."""

    labels: NDArray[np.int64]
    asked: int = 0

    def following(self, count: int) -> NDArray[np.int64]:
        """The next ones; `asked` moves on once they have been answered."""
        return np.take(self.labels, range(self.asked, self.asked + count), mode="wrap")


class QualityProbe:
    """One probe of one environment's model. Not for several threads.

    Args:
        target: where the model is served; may be replaced between rounds.
        source: how to learn what should be served.
        metrics: what Prometheus is told.
        images: fresh images in each round.
        release_seconds: how often Git and the store are asked.
    """

    def __init__(
        self,
        target: Target,
        source: PromiseSource,
        metrics: ProbeMetrics,
        images: int = 32,
        release_seconds: float = 60.0,
    ) -> None:
        if images < 1:
            raise ParameterError(f"images must be at least 1, got {images}")
        check_address(target.service, target.protocol, target.timeout, 0)
        check_address(target.replicas, target.protocol, target.timeout, 0)
        self.target = target
        self._source, self._metrics, self._images = source, metrics, images
        self._release_seconds, self._release_read = release_seconds, -float("inf")
        self._promise: Promise | None = None
        self._promised: Promised | None = None
        self._golden: dict[str, GoldenAnswers] = {}
        self._windows: dict[str, _Window] = {}
        self._plan: _Plan | None = None
        self._store_up = False
        self._said: dict[str, str] = {}
        self._random = np.random.default_rng()

    def round(self) -> None:
        """Ask everything once. What cannot be asked is told (once) and counted; the rest is asked all the same."""
        parts: list[tuple[str, Callable[[], None]]] = [
            ("release", self._read_release),
            ("service", self._ask_service),
            ("fresh images", self._ask_for_fresh_images),
            ("replicas", self._ask_replicas),
        ]
        # No short circuit: every part is tried.
        went_well = [self._try(name, part) for name, part in parts]
        self._metrics.rounds.labels("ok" if all(went_well) else "failed").inc()
        self._metrics.last_round.set_to_current_time()

    def _try(self, name: str, part: Callable[[], None]) -> bool:
        try:
            part()
        except TroikaError as error:
            if self._said.get(name) != str(error):
                print(f"error: {name}: {error}", file=sys.stderr, flush=True)
                self._said[name] = str(error)
            return False
        if self._said.pop(name, None):
            print(f"{name}: well again", flush=True)
        return True

    def _read_release(self) -> None:
        if time.monotonic() - self._release_read < self._release_seconds:
            return
        metrics, promise = self._metrics, self._source.read()
        metrics.release_read.labels(self._source.name).set_to_current_time()
        if promise != self._promise:
            print(
                f"{promise.environment} should serve {promise.model} {promise.version}, {promise.digest}",
                flush=True,
            )
            self._promise, self._promised, self._windows, self._plan = promise, None, {}, None
            metrics.expect(promise.model)
        release = (promise.environment, promise.model, promise.digest, promise.version, self._source.name)
        replace_all(metrics.release, {release: 1})
        self._store_up = False
        store = without_credentials(promise.store)
        replace_all(metrics.store_up, {(store,): 0})
        self._promised = read_promised(promise, self._promised)
        self._store_up = True
        replace_all(metrics.store_up, {(store,): 1})
        replace_all(metrics.quality_watched, {(promise.model,): float(self._promised is not None)})
        self._show_promised(promise.model)
        # Last, so that what failed is tried again in the next round.
        self._release_read = time.monotonic()

    def _show_promised(self, model: str) -> None:
        promised = self._promised
        limits = promised.limits if promised else {}
        expected = promised.expected if promised else {}
        replace_all(
            self._metrics.quality_limit, {(model, name, bound): value for name, (bound, value) in limits.items()}
        )
        replace_all(
            self._metrics.quality_expected,
            {
                (model, name, bound): value
                for name, ends in expected.items()
                for bound, value in zip(("low", "high"), ends, strict=True)
            },
        )
        if promised:
            self._metrics.quality_window.labels(model).set(promised.window_images)

    def _ask_service(self) -> None:
        """One image, asked for as a user does: what availability and latency are counted from."""
        with Client(
            self.target.service, self.target.protocol, self.target.timeout, self._model(),
            retries=0, metrics=self._metrics.client,
        ) as client:  # fmt: skip
            client.generate(1, seed=secrets.randbelow(_SEEDS))

    def _ask_for_fresh_images(self) -> None:
        promised = self._promised
        if promised is None:
            return
        size, reference = promised.window_images, promised.reference
        with self._client(self.target.service) as client:
            labels = mix = None
            if client.model.conditional:
                if self._plan is None:
                    self._plan = _Plan(labels_to_ask_for(reference.labels, size, self._random))
                labels = self._plan.following(self._images)
                mix = np.bincount(self._plan.labels, minlength=reference.classes)
            made = client.generate(self._images, seed=secrets.randbelow(_SEEDS), labels=labels)
        if self._plan is not None:
            self._plan.asked += self._images
        self._metrics.quality_images.labels(self._model(), made.model_digest).inc(len(made.images))
        window = self._windows.setdefault(made.model_digest, _Window())
        window.images.append(made.images)
        if made.labels is not None:
            window.labels.append(made.labels)
        while (full := window.take(size, mix, self._random)) is not None:
            self._measure(made.model_digest, promised, *full)

    def _measure(
        self, digest: str, promised: Promised, images: NDArray[np.uint8], labels: NDArray[np.int64] | None
    ) -> None:
        model = self._model()
        for name, value in promised.reference.figures(images, labels).items():
            self._metrics.quality.labels(model, digest, name).set(value)
        self._metrics.quality_timestamp.labels(model, digest).set_to_current_time()

    def _ask_replicas(self) -> None:
        """What each replica serves, whether it gives its golden images, and whether all agree."""
        model, addresses = self._model(), resolve(self.target.replicas)
        self._metrics.replicas.labels(model).set(len(addresses))
        seed, errors = secrets.randbelow(_SEEDS), []
        answers: dict[str, Generated] = {}
        differences: dict[tuple[str, ...], float] = {}
        for address in addresses:
            try:
                with self._client(address) as client:
                    answers[address] = client.generate(1, seed=seed)
                    digest = answers[address].model_digest
                    difference = self._golden_difference(client, digest)
            except ServerError as error:
                errors.append(error)
                continue
            if difference is not None:
                differences[model, digest, address] = difference
        metrics = self._metrics
        replace_all(metrics.replica_answers, {(model, at): float(at in answers) for at in addresses})
        replace_all(metrics.served, {(model, made.model_digest, at): 1 for at, made in answers.items()})
        replace_all(metrics.golden_difference, differences)
        images: dict[tuple[str, ...], list[NDArray[np.uint8]]] = {}
        for made in answers.values():
            images.setdefault((model, made.model_digest), []).append(made.images)
        replace_all(metrics.disagreement, {key: _largest_difference(same) for key, same in images.items()})
        self._forget_all_but({made.model_digest for made in answers.values()})
        if errors:
            raise errors[0]

    def _golden_difference(self, client: Client, digest: str) -> float | None:
        """In levels of 255, against the golden images of what the replica says that it serves."""
        checks, model = self._metrics.golden_checks, self._model()
        if digest not in self._golden:
            if not self._store_up or self._promise is None:
                return None
            try:
                self._golden[digest] = read_golden_of(self._promise.store, model, digest)
            except StoreError as error:
                checks.labels(model, "unknown").inc()
                raise ServerError(f"a replica serves what the store does not hold: {error}") from None
        golden = self._golden[digest]
        largest = 0.0
        for part in consecutive(golden.seeds):
            labels = None if golden.labels is None else golden.labels[part]
            made = client.generate(part.stop - part.start, seed=int(golden.seeds[part.start]), labels=labels)
            largest = max(largest, _largest_difference([made.images, golden.images[part]]))
        checks.labels(model, "same" if largest <= TOLERANCE else "differs").inc()
        return largest

    def _forget_all_but(self, digests: set[str]) -> None:
        """Figures of what no replica serves any more would look as if they were new."""
        if not digests:
            return
        for gauge in (self._metrics.quality, self._metrics.quality_timestamp):
            (family,) = gauge.collect()
            kept = {tuple(s.labels.values()): s.value for s in family.samples if s.labels["digest"] in digests}
            replace_all(gauge, kept)
        for kept_by_digest in (self._windows, self._golden):
            for digest in kept_by_digest.keys() - digests:
                del kept_by_digest[digest]

    def _client(self, address: str) -> Client:
        return Client(address, self.target.protocol, self.target.timeout, self._model(), retries=0)

    def _model(self) -> str:
        if self._promise is None:
            raise ReleaseError("it is not known yet which model should be served")
        return self._promise.model


def resolve(address: str) -> list[str]:
    """All addresses that the name in `host:port` stands for now.

    Raises:
        ServerError: it stands for none.
    """
    host, port = split_host_port(check_host_port(address))
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ServerError(f"no replica is known by the name {host}: {error.strerror or error}") from None
    hosts = {str(at[0]) for *_, at in found}
    return sorted(f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in hosts)


def consecutive(seeds: NDArray[np.int64]) -> list[slice]:
    """Parts of `seeds` (N,) in which each is one more than the one before: what one request can ask for."""
    breaks = [0, *(np.flatnonzero(np.diff(seeds) != 1) + 1).tolist(), len(seeds)]
    return [slice(start, stop) for start, stop in pairwise(breaks)]


def _largest_difference(images: list[NDArray[np.uint8]]) -> float:
    """Between any two of them, in levels; 256 where their shapes differ."""
    if len({one.shape for one in images}) > 1:
        return 256.0
    stack = np.stack(images).astype(np.int16)
    return float((stack.max(axis=0) - stack.min(axis=0)).max())
