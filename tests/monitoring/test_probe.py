"""Rounds of the probe against a real Triton: what it counts, what it sees, what it does when all is gone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from scipy import stats
from tiny_bundle import expected_images
from worlds import (
    BATCH_SIZE,
    BATCHES,
    World,
    evaluator,
    images_of,
    impostor,
    make_world,
    reference_and_verdict,
    worse,
)

from troika.errors import ParameterError, ServerError, StoreError
from troika.quality.measures import t_interval
from troika.quality.reference import Reference, expected_ranges
from troika.serving import probe as probe_module
from troika.serving.probe import QualityProbe, Target, consecutive, resolve
from troika.serving.probe_metrics import ProbeMetrics
from troika.serving.promise import GitPromise, Promise, SetPromise
from troika.serving.triton import TritonServer
from troika.serving.triton_process import choose_ports

Sample = Callable[..., float | None]


def make_probe(world: World, address: str, images: int = 100) -> tuple[QualityProbe, Sample]:
    """A probe with a registry of its own, and how to read a series of it."""
    registry = CollectorRegistry()
    source = GitPromise(str(world.remote), "test")
    probe = QualityProbe(Target(address, address, timeout=5.0), source, ProbeMetrics(registry), images, 0.0)

    def sample(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    return probe, sample


def address_of(server: TritonServer) -> str:
    return f"127.0.0.1:{server.state.grpc_port}"


def test_a_model_that_keeps_its_promise(world: World, triton: TritonServer) -> None:
    probe, sample = make_probe(world, address_of(triton))
    probe.round()
    digest, replica = world.bundle.digest, address_of(triton)
    assert sample("troika_probe_rounds_total", result="ok") == 1
    assert sample("troika_client_requests_total", model="tiny", outcome="ok") == 1
    assert sample("troika_client_requests_total", model="tiny", outcome="failed") == 0
    released = {"environment": "test", "model": "tiny", "digest": digest, "version": "1", "source": "git"}
    assert sample("troika_probe_release_info", **released) == 1
    assert sample("troika_probe_served_info", model="tiny", digest=digest, replica=replica) == 1
    assert sample("troika_probe_golden_difference_levels", model="tiny", digest=digest, replica=replica) == 0
    assert sample("troika_probe_golden_checks_total", model="tiny", result="same") == 1
    assert sample("troika_probe_store_up", store=world.store.as_uri()) == 1
    assert sample("troika_probe_quality_watched", model="tiny") == 1
    assert sample("troika_probe_quality_window_images", model="tiny") == BATCH_SIZE
    assert sample("troika_probe_quality", model="tiny", digest=digest, figure="frechet_distance") is None
    probe.round()  # Twice a hundred images are a window.
    found = sample("troika_probe_quality", model="tiny", digest=digest, figure="frechet_distance")
    low = sample("troika_probe_quality_expected", model="tiny", figure="frechet_distance", bound="low")
    high = sample("troika_probe_quality_expected", model="tiny", figure="frechet_distance", bound="high")
    assert found is not None
    assert low is not None
    assert high is not None
    assert low < found < high < 100
    assert sample("troika_probe_quality_images_total", model="tiny", digest=digest) == 200


def test_every_window_has_the_class_mix_that_the_gate_asked_for(
    world: World, triton: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the mix of chance is measured as class balance and distance, and a healthy model drifts."""
    windows: list[np.ndarray] = []
    figures = Reference.figures

    def noted(self: Reference, images: np.ndarray, labels: np.ndarray | None) -> dict[str, float]:
        assert labels is not None
        assert len(images) == len(labels) == BATCH_SIZE
        mix, cycles = np.bincount(self.labels, minlength=self.classes), BATCH_SIZE / len(self.labels)
        windows.append(np.bincount(labels, minlength=self.classes))
        # As often as each held-out image's label comes, if they are asked for in turns.
        assert (windows[-1] >= np.floor(cycles) * mix).all()
        assert (windows[-1] <= np.ceil(cycles) * mix).all()
        return figures(self, images, labels)

    monkeypatch.setattr(Reference, "figures", noted)
    probe, _ = make_probe(world, address_of(triton), images=48)
    for number in range(13):
        if number == 5:  # a round that fails asks for nothing that would be missing later
            with monkeypatch.context() as closed:
                closed.setattr(probe, "target", Target("127.0.0.1:1", address_of(triton), timeout=1.0))
                probe.round()
        probe.round()
    assert len(windows) == 3
    assert (np.array(windows) == windows[0]).all()


def test_a_worse_model_shows(world: World, tmp_path: Path) -> None:
    bad = worse(tmp_path / "worse")
    with TritonServer(bad.folder, exit_seconds=0) as server:
        probe, sample = make_probe(world, address_of(server), 200)
        probe.round()
    found = sample("troika_probe_quality", model="tiny", digest=bad.digest, figure="frechet_distance")
    limit = sample("troika_probe_quality_limit", model="tiny", figure="frechet_distance", bound="at_most")
    assert found is not None
    assert limit is not None
    assert found > 2 * limit
    # Nobody has published it.
    assert sample("troika_probe_golden_checks_total", model="tiny", result="unknown") == 1
    assert sample("troika_probe_rounds_total", result="failed") == 1


def test_a_replica_that_is_not_what_it_says_shows_and_disagrees(
    world: World, triton: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = world.bundle.digest
    with TritonServer(impostor(tmp_path / "impostor", digest).folder, exit_seconds=0) as server:
        probe, sample = make_probe(world, address_of(triton))
        probe.round()
        assert sample("troika_probe_replica_disagreement_levels", model="tiny", digest=digest) == 0
        both = [address_of(triton), address_of(server)]
        monkeypatch.setattr(probe_module, "resolve", lambda _: both)
        probe.round()
    labels = {"model": "tiny", "digest": digest}
    assert sample("troika_probe_replicas", model="tiny") == 2
    assert sample("troika_probe_golden_difference_levels", replica=both[0], **labels) == 0
    assert sample("troika_probe_golden_difference_levels", replica=both[1], **labels) == 3
    assert sample("troika_probe_replica_disagreement_levels", **labels) == 3
    assert sample("troika_probe_golden_checks_total", model="tiny", result="differs") == 1
    # It has ended: what was known of it is gone, the other is still asked.
    probe.round()
    assert sample("troika_probe_golden_difference_levels", replica=both[1], **labels) is None
    assert sample("troika_probe_replica_answers", model="tiny", replica=both[1]) == 0
    assert sample("troika_probe_replica_answers", model="tiny", replica=both[0]) == 1


def test_a_server_that_is_gone_is_a_failed_request(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    probe, sample = make_probe(world, f"127.0.0.1:{choose_ports((0, 0, 0))[0]}")
    probe.round()
    probe.round()
    assert sample("troika_client_requests_total", model="tiny", outcome="unreachable") == 2
    assert sample("troika_client_requests_total", model="tiny", outcome="ok") == 0
    assert sample("troika_probe_rounds_total", result="failed") == 2
    assert sample("troika_probe_last_round_timestamp_seconds") is not None
    said = capsys.readouterr().err
    assert said.count("error: service: nothing answers") == 1  # Told once.


def test_git_and_store_that_are_gone_leave_the_rest_watched(
    world: World, triton: TritonServer, tmp_path: Path
) -> None:
    own = make_world(tmp_path)
    probe, sample = make_probe(own, address_of(triton))
    probe.round()
    read = sample("troika_probe_release_read_timestamp_seconds", source="git")
    up = {"store": own.store.as_uri()}
    assert sample("troika_probe_store_up", **up) == 1
    own.store.rename(tmp_path / "away")
    probe.round()
    assert sample("troika_probe_store_up", **up) == 0
    own.store.write_text("not a folder")
    probe.round()
    assert sample("troika_probe_store_up", **up) == 0
    own.remote.rename(tmp_path / "gone.git")
    probe.round()
    later = sample("troika_probe_release_read_timestamp_seconds", source="git")
    assert read is not None
    assert later is not None
    assert later > read
    probe.round()
    assert sample("troika_probe_release_read_timestamp_seconds", source="git") == later
    assert sample("troika_client_requests_total", model="tiny", outcome="ok") == 5


def test_a_verdict_without_reference_is_told(triton: TritonServer, tmp_path: Path) -> None:
    own = make_world(tmp_path, with_reference=False)
    probe, sample = make_probe(own, address_of(triton))
    probe.round()
    assert sample("troika_probe_quality_watched", model="tiny") == 0
    assert sample("troika_probe_rounds_total", result="ok") == 1


def test_settings_stand_in_for_git(world: World, triton: TritonServer) -> None:
    registry = CollectorRegistry()
    promise = Promise("kind", "tiny", world.bundle.digest, "1", world.store.as_uri(), world.verdict_sha256)
    target = Target(address_of(triton), address_of(triton))
    QualityProbe(target, SetPromise(promise), ProbeMetrics(registry)).round()
    labels = {
        "environment": "kind",
        "model": "tiny",
        "digest": promise.digest,
        "version": "1",
        "source": "settings",
    }
    assert registry.get_sample_value("troika_probe_release_info", labels) == 1


def test_wrong_settings_are_named(world: World) -> None:
    source = GitPromise(str(world.remote), "test")
    with pytest.raises(ParameterError, match="images must be at least 1"):
        QualityProbe(Target("a:1", "a:1"), source, ProbeMetrics(CollectorRegistry()), 0)
    with pytest.raises(ServerError, match=r"no replica is known by the name nowhere\.invalid"):
        resolve("nowhere.invalid:8001")
    assert resolve("127.0.0.1:8001") == ["127.0.0.1:8001"]


def test_golden_seeds_are_asked_for_in_as_few_requests_as_can_be() -> None:
    parts = consecutive(np.array([0, 1, 5, 9, 10, 11]))
    assert [(part.start, part.stop) for part in parts] == [(0, 2), (2, 3), (3, 6)]


def test_a_reference_is_read_back_as_it_was_and_nothing_else_is(world: World) -> None:
    content, _ = reference_and_verdict(world.bundle)
    again = Reference.from_bytes(content)
    assert again.to_bytes() == content
    images, labels = images_of(np.random.default_rng(3), 50)
    assert again.figures(images, labels)["frechet_distance"] > 0
    assert set(again.figures(images, None)) == set(again.figures(images, labels)) - {"label_agreement"}
    for wrong in (b"", b"PK", content[:1000], np.arange(3).tobytes()):
        with pytest.raises(StoreError, match="reference of a verdict"):
            Reference.from_bytes(wrong)


def test_999_of_1000_further_batches_lie_in_the_expected_range() -> None:
    rng = np.random.default_rng(0)
    outside = 0
    for _ in range(2000):
        values = rng.normal(3.0, 0.5, 10)
        low, high = t_interval(values.tolist())
        measure = {"name": "figure", "value": values.mean(), "low": low, "high": high}
        verdict = {"params": {"samples": {"batches": 10}}, "measures": [measure]}
        left, right = expected_ranges(verdict)["figure"]
        outside += not left <= rng.normal(3.0, 0.5) <= right
    # Two are expected; more than eight come about once in 4,000 times.
    assert outside <= 8
    assert stats.binom.sf(8, 2000, 0.001) < 3e-4
    # The control: a range for a batch is wider than the interval of the mean.
    assert right - left > 3 * (high - low)


def test_tests_measure_what_they_say() -> None:
    """The worlds' good model is the arithmetic of the tiny graph, and its evaluator tells it from others."""
    images, labels = images_of(np.random.default_rng(5), 100)
    assert images.shape[0] == len(labels) == 100
    assert BATCHES >= 2
    assert (expected_images([7], [3]) == expected_images([7 + 251], [3])).all()
    features, _ = evaluator().look_at(images)
    assert features.std(axis=0).min() > 0
