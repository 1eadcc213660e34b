"""In every run known-bad generators go through the gate; a gate that lets one through stops the run."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from components.evaluate import EvaluateParams
from troika.datasets.contract import Dataset, Split
from troika.errors import GateBrokenError
from troika.quality.evaluator import Evaluator
from troika.quality.gate import Limit
from troika.quality.judge import SampleParams, judge
from troika.quality.measures import labels_to_ask_for
from troika.quality.real import RealSide
from troika.quality.self_test import SelfTestRow, self_test
from troika.quality.spoiled import real_images, spoiled_generators
from troika.quality.tally import Tally

SIZE = 500


@pytest.fixture(scope="session")
def real(prepared_digits: Dataset, evaluator: Evaluator) -> RealSide:
    return RealSide(prepared_digits, evaluator, SIZE, 50_000)


@pytest.fixture(scope="session")
def samples(evaluate_params: EvaluateParams) -> SampleParams:
    return evaluate_params.samples.model_copy(update={"batches": 2, "budget": 2, "batch_size": SIZE})


@pytest.fixture(scope="session")
def candidate(real: RealSide, samples: SampleParams, evaluate_params: EvaluateParams) -> Tally:
    generator = real_images(real, conditional=True)
    more = samples.model_copy(update={"batches": 4, "budget": 4})
    return judge(generator, real, more, {}, None, evaluate_params.champion).tally


@pytest.fixture(scope="session")
def rows(
    real: RealSide, candidate: Tally, samples: SampleParams, evaluate_params: EvaluateParams
) -> list[SelfTestRow]:
    return self_test(real, samples, evaluate_params.limits, evaluate_params.champion, candidate)


def test_each_known_bad_generator_is_refused_for_the_right_reason(rows: list[SelfTestRow]) -> None:
    assert [row.name for row in rows] == [
        "noise",
        "one image repeated",
        "copies of training images",
        "blurred",
        "inverted",
        "3 of 10 classes",
        "labels shuffled",
        "the champion itself",
        "held-out images themselves",
    ]
    *bad, itself, control = rows
    for row in bad:
        assert row.decision == "reject", row
        assert set(row.failed) & set(row.expected), row
        assert row.reason
    assert itself.decision != "promote"
    # With so few samples it may be a close call against the tightest limit.
    assert control.decision != "reject"
    assert control.failed == []


@pytest.mark.parametrize(
    ("name", "seen_by"),
    [
        ("copies of training images", {"memorisation", "memorisation_pixels", "duplicates", "duplicates_pixels"}),
        ("labels shuffled", {"label_agreement", "classification_accuracy"}),
    ],
)
def test_copies_and_labels_are_seen_by_what_looks_for_them_and_by_nothing_else(
    real: RealSide, samples: SampleParams, evaluate_params: EvaluateParams, name: str, seen_by: set[str]
) -> None:
    (spoiled,) = [one for one in spoiled_generators(real, conditional=True) if one.name == name]
    measures = judge(
        spoiled, real, samples, evaluate_params.limits, None, evaluate_params.champion
    ).judgement.measures
    assert {measure.name for measure in measures if measure.result == "failed"} == seen_by


@pytest.mark.parametrize(
    ("kept", "broken"),
    [
        ({"label_agreement": Limit(below_floor=0.02)}, "copies of training images"),
        ({"memorisation": Limit(at_most=0.7)}, "noise, "),
        ({"frechet_distance": Limit(above_floor=1e9)}, "noise, one image repeated, copies of training images, "),
        ({}, "noise, one image repeated, copies of training images, blurred, inverted, 3 of 10 classes, labels"),
    ],
)
def test_a_gate_that_would_promote_one_is_called_broken(
    real: RealSide,
    candidate: Tally,
    samples: SampleParams,
    evaluate_params: EvaluateParams,
    kept: dict[str, Limit],
    broken: str,
) -> None:
    with pytest.raises(GateBrokenError) as caught:
        self_test(real, samples, kept, evaluate_params.champion, candidate)
    assert str(caught.value).startswith(f"gate broken: it would not refuse {broken}")
    assert ("copies of training images" in str(caught.value)) == ("memorisation" not in kept)


def test_a_gate_that_is_content_with_a_draw_is_not_asked_about_the_champion_itself(
    real: RealSide, candidate: Tally, samples: SampleParams, evaluate_params: EvaluateParams
) -> None:
    match = evaluate_params.champion.model_copy(update={"must": "match"})
    rows = self_test(real, samples, evaluate_params.limits, match, candidate)
    assert "the champion itself" not in [row.name for row in rows]


def test_limits_that_no_real_image_keeps_are_told(
    real: RealSide, candidate: Tally, samples: SampleParams, evaluate_params: EvaluateParams
) -> None:
    limits = {**evaluate_params.limits, "label_agreement": Limit(at_least=0.9999)}
    control = self_test(real, samples, limits, evaluate_params.champion, candidate)[-1]
    assert (control.decision, control.failed) == ("reject", ["label_agreement"])


def test_a_model_without_labels_is_not_tested_with_shuffled_ones(real: RealSide) -> None:
    names = [spoiled.name for spoiled in spoiled_generators(real, conditional=False)]
    assert names == [
        "noise",
        "one image repeated",
        "copies of training images",
        "blurred",
        "inverted",
        "3 of 10 classes",
    ]


def test_spoiled_images_are_what_their_name_says(real: RealSide) -> None:
    labels = labels_to_ask_for(real.held_out.labels, 200, np.random.default_rng(0))
    made: dict[str, Any] = {
        spoiled.name: spoiled.draw(np.arange(7, 207), labels)
        for spoiled in spoiled_generators(real, conditional=True)
    }
    assert all(images.dtype == np.uint8 and images.shape == (200, 8, 8, 1) for images in made.values())
    train = {image.tobytes() for image in real.train.images}
    held_out = {image.tobytes() for image in real.held_out.images}
    assert all(image.tobytes() in train for image in made["copies of training images"])
    assert all((255 - image).tobytes() in held_out for image in made["inverted"])
    assert len({image.tobytes() for image in made["one image repeated"]}) == 1
    assert made["blurred"].std(axis=(1, 2, 3)).mean() < 0.8 * real.held_out.images.std(axis=(1, 2, 3)).mean()
    _, seen = real.evaluator.look_at(made["3 of 10 classes"])
    assert set(np.unique(seen).tolist()) <= {0, 1, 2}
    _, seen = real.evaluator.look_at(made["labels shuffled"])
    assert 0 < (seen == labels).mean() < 0.3
    again = spoiled_generators(real, conditional=True)[0].draw(np.arange(7, 207), labels)
    assert np.array_equal(again, made["noise"])


def test_a_model_without_usable_images_has_no_champion_to_be_compared_with(
    real: RealSide, samples: SampleParams, evaluate_params: EvaluateParams
) -> None:
    rows = self_test(
        real, samples, evaluate_params.limits, evaluate_params.champion, Tally(real, conditional=True)
    )
    assert "the champion itself" not in [row.name for row in rows]
    assert all(row.decision == "reject" for row in rows if not row.control)


def test_a_gate_that_prefers_a_model_to_itself_is_called_broken(
    real: RealSide, samples: SampleParams, evaluate_params: EvaluateParams, candidate: Tally
) -> None:
    """Half of the champion's batches against the other half, of which one was made much worse."""
    spoilt = candidate.part(slice(0, 4))
    for name in ("frechet_distance", "random_frechet_distance"):
        spoilt.batches[name] = [real.floors[name] * 2] * 2 + [real.floors[name] * 9] * 2
    noise = spoiled_generators(real, conditional=True)[0]
    labels = labels_to_ask_for(real.held_out.labels, SIZE, np.random.default_rng(0))
    worse = Tally(real, conditional=True)
    for start in (0, SIZE):
        worse.add(noise.draw(np.arange(start, start + SIZE), labels), labels)
    spoilt.moments = candidate.moments[:2] + worse.moments
    with pytest.raises(GateBrokenError, match="it would not refuse the champion itself"):
        self_test(real, samples, evaluate_params.limits, evaluate_params.champion, spoilt)


def test_kept_classes_are_some_that_there_are(real: RealSide) -> None:
    """Else an unconditional generator of "class 0 alone" would give any held-out image, which is perfect."""
    held_out = real.dataset.held_out
    rows = held_out.labels > 1
    splits = {**real.dataset.splits, "validation": Split(held_out.images[rows], held_out.labels[rows])}
    splits["test"] = Split(held_out.images[rows][:50], held_out.labels[rows][:50])
    lacking = replace(real, dataset=replace(real.dataset, splits=splits))
    (few,) = [one for one in spoiled_generators(lacking, conditional=False) if "classes" in one.name]
    labels = labels_to_ask_for(lacking.held_out.labels, 200, np.random.default_rng(0))
    _, seen = real.evaluator.look_at(few.draw(np.arange(200), labels))
    assert few.name == "2 of 10 classes"
    # But for those that the evaluator mistakes.
    assert np.isin(seen, [2, 3]).mean() > 0.9
