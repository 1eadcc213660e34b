"""With the limits of params.yaml, known-bad generators do not pass and real images do."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from made_up import (
    Draw,
    MadeUpGenerator,
    blurred,
    few_of_each_class,
    judge_few,
    mean_of_two,
    noise,
    noisy,
    one_grey,
    one_image_whatever_the_label,
    with_some,
    with_wrong_labels,
    without_class_0,
)

from components.evaluate import EvaluateParams
from troika.datasets.contract import Dataset, Images, Labels, Split
from troika.quality.evaluator import EvaluatorParams
from troika.quality.evaluator_training import train_evaluator
from troika.quality.judge import Generator, Judged, judge
from troika.quality.real import RealSide
from troika.quality.spoiled import images_of


@pytest.fixture(scope="session")
def gate(real_side: RealSide, evaluate_params: EvaluateParams) -> Callable[[Generator], Judged]:
    """The gate of params.yaml, with fewer batches: none of these is a close call."""
    samples = evaluate_params.samples.model_copy(update={"batches": 3, "budget": 3})

    def gate(generator: Generator) -> Judged:
        return judge(generator, real_side, samples, evaluate_params.limits, None, evaluate_params.champion)

    return gate


Gate = Callable[[Generator], Judged]


@pytest.fixture(scope="session")
def real(prepared_digits: Dataset) -> Split:
    """Held-out images stand in for a perfect generator: those of training would be copies."""
    return prepared_digits.held_out


@pytest.mark.parametrize(
    ("spoil", "seen_by"),
    [
        (lambda real: noise, "frechet_distance"),
        (lambda real: one_grey, "constant_images"),
        (lambda real: few_of_each_class(real, 1), "recall"),
        (lambda real: few_of_each_class(real, 1), "coverage"),
        (lambda real: few_of_each_class(real, 10), "frechet_distance"),
        (one_image_whatever_the_label, "class_balance"),
        (lambda real: with_wrong_labels(real, 0.1), "label_agreement"),
        (lambda real: with_wrong_labels(real, 0.04), "label_agreement"),
        (without_class_0, "class_balance"),
        (blurred, "frechet_distance"),
        (lambda real: noisy(real, 40), "frechet_distance"),
        (lambda real: with_wrong_labels(real, 0.95), "classification_accuracy"),
        (lambda real: with_some(noise, real, 0.6), "precision"),
        (lambda real: with_some(noise, real, 0.1), "label_agreement"),
        (lambda real: with_some(one_grey, real, 0.01), "constant_images"),
        (mean_of_two, "frechet_distance"),
    ],
    ids=[
        "noise", "one grey", "one image per class", "one image per class (coverage)", "ten images per class",
        "one image", "10 % wrong labels", "4 % wrong labels", "class 0 missing", "blurred", "noisy",
        "95 % wrong labels", "60 % noise", "10 % noise", "1 % one grey", "mean of two",
    ],
)  # fmt: skip
def test_a_known_bad_generator_is_rejected_for_the_right_reason(
    gate: Gate, real: Split, spoil: Callable[[Split], Draw], seen_by: str
) -> None:
    judged = gate(MadeUpGenerator(spoil(real)))
    assert judged.decision == "reject"
    assert seen_by in {entry.name for entry in judged.judgement.measures if entry.result == "failed"}
    assert any(reason.startswith(f"{seen_by} = ") for reason in judged.reasons)


@pytest.mark.parametrize("conditional", [True, False])
def test_real_images_are_promoted(gate: Gate, real: Split, conditional: bool) -> None:
    judged = gate(MadeUpGenerator(images_of(real), conditional=conditional))
    assert judged.decision == "promote", judged.reasons


@pytest.mark.parametrize("share", [1.0, 0.7, 0.15])
def test_copies_of_training_images_are_not_promoted(
    gate: Gate, prepared_digits: Dataset, real: Split, share: float
) -> None:
    """Nor are they where only every sixth is one. No distance between distributions sees it."""
    copies = with_some(images_of(prepared_digits.train), real, share)
    judged = gate(MadeUpGenerator(copies))
    assert judged.decision == "reject"
    failed = {entry.name for entry in judged.judgement.measures if entry.result == "failed"}
    assert failed <= {"memorisation", "memorisation_pixels", "duplicates", "duplicates_pixels"}
    assert {"duplicates", "duplicates_pixels"} <= failed
    assert ({"memorisation", "memorisation_pixels"} <= failed) == (share >= 0.5)


def test_near_copies_are_seen_too(gate: Gate, prepared_digits: Dataset) -> None:
    """A pixel or two off, in a training image each."""

    def nearly(rng: np.random.Generator, labels: Labels) -> Images:
        images = images_of(prepared_digits.train)(rng, labels)
        images[np.arange(len(images)), rng.integers(0, 8, len(images)), rng.integers(0, 8, len(images))] = 0
        return images

    judged = gate(MadeUpGenerator(nearly))
    assert judged.decision == "reject"
    assert {"memorisation", "memorisation_pixels"} <= {
        entry.name for entry in judged.judgement.measures if entry.result == "failed"
    }


def test_an_unconditional_generator_is_judged_without_labels(gate: Gate, real: Split) -> None:
    bad = gate(MadeUpGenerator(without_class_0(real), conditional=False))
    assert bad.decision == "reject"
    for name in ("label_agreement", "classification_accuracy"):
        (entry,) = [entry for entry in bad.judgement.measures if entry.name == name]
        assert (entry.value, entry.result) == (None, "reported")
        assert entry.note == "does not apply: the model takes no label"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            lambda count: np.full((count, 8, 8, 1), np.nan),
            "uint8 0..255 is needed, not float64, of which 100.0% is NaN",
        ),
        (lambda count: np.zeros((count, 8, 8, 3), np.uint8), r"must be \(8, 8, 1\), not \(8, 8, 3\)"),
        (lambda count: np.zeros((count - 1, 8, 8, 1), np.uint8), "2000 are needed, not 1999"),
        (lambda count: None, "an array is needed, not NoneType"),
    ],
)
def test_what_is_no_picture_is_rejected_by_name(gate: Gate, answer: Callable[[int], Any], words: str) -> None:
    judged = gate(MadeUpGenerator(lambda rng, labels: answer(len(labels))))
    assert judged.decision == "reject"
    (reason,) = judged.reasons
    assert re.match(f"the generator gives no samples: images: .*{words}", reason)


def test_a_judge_that_cannot_judge_promotes_nothing(
    prepared_digits: Dataset, evaluate_params: EvaluateParams
) -> None:
    info = prepared_digits.info
    brief = EvaluatorParams(steps=3, batch_size=64, learning_rate=2.0e-3, features=64, seed=0)
    blind = train_evaluator(prepared_digits.train, info.shape, len(info.classes), brief)
    side = RealSide(prepared_digits, blind, 500, 50_000)
    judged = judge_few(MadeUpGenerator(images_of(side.held_out)), side, evaluate_params, batch_size=500)
    assert judged.decision == "reject"
    assert any(reason.startswith("evaluator_accuracy = ") for reason in judged.reasons)


def test_every_limit_of_the_parameter_file_is_broken_by_some_generator_above(
    evaluate_params: EvaluateParams,
) -> None:
    """So that no limit can be lost unnoticed."""
    (cases,) = [mark.args[1] for mark in test_a_known_bad_generator_is_rejected_for_the_right_reason.pytestmark]
    seen = {name for _, name in cases}
    seen |= {"memorisation", "memorisation_pixels", "duplicates", "duplicates_pixels", "evaluator_accuracy"}
    assert set(evaluate_params.limits) == seen
