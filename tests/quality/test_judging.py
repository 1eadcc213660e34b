"""How the judge draws, how often it looks, and what a champion does to its verdict."""

import math
from dataclasses import replace

import numpy as np
import pytest
from made_up import FEW, MadeUpGenerator, blurred, entry_of, judge_few, noise, noisy, with_some, with_wrong_labels

from components.evaluate import EvaluateParams
from troika.datasets.contract import Dataset, Images, Labels
from troika.errors import ParameterError
from troika.quality.evaluator import Evaluator
from troika.quality.gate import Limit, widen_for_looks
from troika.quality.judge import Judged, SampleParams, challenge_of, judge
from troika.quality.measures import Moments, distance_to, frechet_distance, t_interval
from troika.quality.real import RealSide
from troika.quality.reference import to_levels
from troika.quality.spoiled import images_of
from troika.quality.tally import NOTES, Tally


@pytest.fixture(scope="session")
def judged(real_side: RealSide, evaluate_params: EvaluateParams) -> tuple[Judged, MadeUpGenerator]:
    generator = MadeUpGenerator(images_of(real_side.held_out))
    return judge_few(generator, real_side, evaluate_params), generator


def test_every_batch_is_fresh(judged: tuple[Judged, MadeUpGenerator]) -> None:
    seeds = np.concatenate([seeds for seeds, _ in judged[1].asked])
    assert seeds.tolist() == list(range(5, 305))


def test_requested_labels_follow_the_held_out_mix(
    judged: tuple[Judged, MadeUpGenerator], prepared_digits: Dataset
) -> None:
    held_out = np.bincount(prepared_digits.held_out.labels) / len(prepared_digits.held_out)
    for _, labels in judged[1].asked:
        assert np.bincount(labels, minlength=10) / 100 == pytest.approx(held_out, abs=0.12)
    assert len({labels.tobytes() for _, labels in judged[1].asked}) == 3


def test_the_interval_of_a_distance_comes_from_independent_batches(
    judged: tuple[Judged, MadeUpGenerator], prepared_digits: Dataset, evaluator: Evaluator
) -> None:
    """Not from resampling one batch, whose interval lies off the truth; see test_measures.py."""
    found, generator = judged
    reference, _ = evaluator.look_at(prepared_digits.held_out.images)
    distances = []
    for seeds, labels in generator.asked:
        images = generator._draw(np.random.default_rng(int(seeds[0])), labels)
        distances.append(frechet_distance(evaluator.look_at(images)[0], reference))
    entry = entry_of(found, "frechet_distance")
    assert entry.value == pytest.approx(np.mean(distances), rel=1e-5)
    low, high = t_interval(distances)
    assert (entry.low, entry.high) == pytest.approx((max(low, 0), high), rel=1e-4)


def test_judging_twice_gives_the_same(
    judged: tuple[Judged, MadeUpGenerator], real_side: RealSide, evaluate_params: EvaluateParams
) -> None:
    again = judge_few(MadeUpGenerator(images_of(real_side.held_out)), real_side, evaluate_params)
    assert again.judgement == judged[0].judgement
    other = judge_few(MadeUpGenerator(images_of(real_side.held_out)), real_side, evaluate_params, seed=6)
    assert other.judgement != judged[0].judgement


def test_the_table_counts_every_sample_under_its_label(judged: tuple[Judged, MadeUpGenerator]) -> None:
    found, generator = judged
    labels = np.concatenate([labels for _, labels in generator.asked])
    assert found.tally.confusion.sum(axis=1).tolist() == np.bincount(labels, minlength=10).tolist()
    assert entry_of(found, "label_agreement").value == pytest.approx(np.trace(found.tally.confusion) / 300)


def test_every_figure_has_an_interval_and_what_real_images_score(judged: tuple[Judged, MadeUpGenerator]) -> None:
    assert [entry.name for entry in judged[0].judgement.measures] == [
        name for name in NOTES if name != "inception_frechet_distance"
    ]
    for entry in judged[0].judgement.measures:
        assert entry.value is not None
        assert entry.low is not None
        assert entry.high is not None
        assert math.isfinite(entry.value)
        assert entry.low <= entry.value <= entry.high
    without = {entry.name for entry in judged[0].judgement.measures if entry.floor is None}
    assert without == {"evaluator_accuracy", "frechet_distance_at_infinity"}


def test_champion_and_challenger_draw_the_same_latents_and_labels(
    real_side: RealSide, evaluate_params: EvaluateParams
) -> None:
    ours, theirs = MadeUpGenerator(images_of(real_side.held_out)), MadeUpGenerator(blurred(real_side.held_out))
    judged = judge_few(ours, real_side, evaluate_params, theirs, batch_size=2000)
    for (seeds, labels), (their_seeds, their_labels) in zip(ours.asked, theirs.asked, strict=True):
        assert np.array_equal(seeds, their_seeds)
        assert np.array_equal(labels, their_labels)
    assert judged.challenge is not None
    assert judged.challenge.decision == "promote"
    assert judged.decision == "promote", judged.reasons
    assert judged.reasons == [judged.challenge.reason]


def test_random_features_may_object(real_side: RealSide, evaluate_params: EvaluateParams) -> None:
    """What the evaluator likes and eyes that nobody has trained do not is no gain."""
    every, params = slice(None), evaluate_params.champion
    ours = judge_few(MadeUpGenerator(images_of(real_side.held_out)), real_side, evaluate_params).tally.part(every)
    theirs = judge_few(MadeUpGenerator(noise), real_side, evaluate_params).tally.part(every)
    assert challenge_of(ours, theirs, real_side, params, 100).decision == "promote"
    ours.batches["random_frechet_distance"] = [50 * x for x in theirs.batches["random_frechet_distance"]]
    found = challenge_of(ours, theirs, real_side, params, 100)
    assert found.decision == "inconclusive"
    assert found.reason.endswith("beyond chance and training seeds: the two disagree")


def test_a_challenger_that_keeps_every_limit_but_is_no_better_is_rejected(
    real_side: RealSide, evaluate_params: EvaluateParams
) -> None:
    ours = MadeUpGenerator(noisy(real_side.held_out, 8))
    judged = judge_few(
        ours, real_side, evaluate_params, MadeUpGenerator(images_of(real_side.held_out)), batch_size=2000
    )
    assert judged.judgement.decision == "promote", judged.judgement.reasons
    assert judged.decision == "reject"
    assert judged.reasons[0].endswith("the champion: no better")


def test_better_than_a_bad_champion_is_not_enough(real_side: RealSide, evaluate_params: EvaluateParams) -> None:
    half = MadeUpGenerator(with_some(blurred(real_side.held_out), real_side.held_out, 0.5))
    judged = judge_few(half, real_side, evaluate_params, MadeUpGenerator(noise), batch_size=1000)
    assert judged.challenge is not None
    assert judged.challenge.decision == "promote"
    assert judged.decision == "reject"


def test_a_champion_that_gives_no_pictures_cannot_keep_its_place(
    real_side: RealSide, evaluate_params: EvaluateParams
) -> None:
    broken = MadeUpGenerator(lambda rng, labels: np.full((len(labels), 8, 8, 1), np.nan))
    good = MadeUpGenerator(images_of(real_side.held_out))
    judged = judge_few(good, real_side, evaluate_params, broken, batch_size=2000)
    assert (judged.decision, judged.challenge) == ("promote", None)
    assert judged.champion_problem.startswith(
        "the champion cannot be compared with, the generator gives no samples"
    )


def test_a_model_without_labels_does_not_replace_one_that_follows_them(
    real_side: RealSide, evaluate_params: EvaluateParams
) -> None:
    good = MadeUpGenerator(images_of(real_side.held_out), conditional=False)
    judged = judge_few(good, real_side, evaluate_params, MadeUpGenerator(noise), batch_size=2000)
    assert judged.decision == "inconclusive"
    assert "the champion follows labels and this model does not" in judged.reasons[0]


def test_with_few_training_images_the_floor_is_that_of_a_whole_batch(
    real_side: RealSide, prepared_digits: Dataset, evaluator: Evaluator
) -> None:
    """1,206 digits, batches of 2,000: the bias of fewer rows must not count as distance."""
    taken = RealSide(prepared_digits, evaluator, 1206, 50_000)
    assert 0 < real_side.floors["frechet_distance"] < taken.floors["frechet_distance"]
    # The same line from 300 and 150 rows to 1,200 meets what 1,200 rows score.
    rng = np.random.default_rng(0)
    distance = distance_to(Moments.of(rng.normal(size=(600, 16))))
    rows = rng.normal(size=(300 * 40, 16)).astype(np.float32)
    found = []
    for start in range(0, len(rows), 300):
        side = RealSide(prepared_digits, evaluator, 1200, 50_000)
        part = rows[start : start + 300]
        vars(side)["_floor_moments"] = [Moments.of(part)]
        vars(side)["_half_moments"] = [Moments.of(part[:150]), Moments.of(part[150:])]
        found.append(side._floor_of(distance))
    truth = np.mean([distance(Moments.of(rng.normal(size=(1200, 16)))) for _ in range(40)])
    raw = np.mean([distance(Moments.of(rows[start : start + 300])) for start in range(0, len(rows), 300)])
    assert abs(np.mean(found) - truth) < 0.25 * abs(raw - truth)


def test_it_is_said_where_copies_of_some_training_images_would_not_be_seen(
    prepared_digits: Dataset, evaluator: Evaluator
) -> None:
    there = len(prepared_digits.train)
    for largest, expected in ((200, f"; 200 of {there:,} training images were looked at"), (there, "")):
        real = RealSide(prepared_digits, evaluator, 100, largest)
        tally = Tally(real, conditional=True)
        for seed in (0, 100):
            labels = real.held_out.labels[:100]
            tally.add(noise(np.random.default_rng(seed), labels), labels)
        notes = {measure.name: measure.note for measure in tally.measures()}
        assert notes["memorisation"].endswith(f"0.5 is usual{expected}")
        assert "looked at" not in notes["precision"]


def test_chance_alone_does_not_break_class_balance(real_side: RealSide, evaluate_params: EvaluateParams) -> None:
    """A perfect generator of small batches that takes no label: its mix is off by sampling."""
    side = replace(real_side, batch_size=100)
    held_out = side.held_out.images

    def any_of_them(rng: np.random.Generator, labels: Labels) -> Images:
        return held_out[rng.integers(0, len(held_out), len(labels))]

    judged = judge_few(
        MadeUpGenerator(any_of_them, conditional=False), side, evaluate_params, batch_size=100, batches=20,
        budget=20,
    )  # fmt: skip
    entry = entry_of(judged, "class_balance")
    assert entry.value is not None
    assert entry.floor is not None
    assert entry.value == pytest.approx(entry.floor, abs=0.03)
    assert entry.result == "passed"
    assert entry.value > 0.05


def test_an_open_verdict_draws_more_until_it_is_certain_or_the_budget_is_spent(
    real_side: RealSide, evaluate_params: EvaluateParams
) -> None:
    def held_to(limit: float, budget: int) -> tuple[Judged, int]:
        generator = MadeUpGenerator(with_wrong_labels(real_side.held_out, 0.05))
        samples = SampleParams(batches=10, batch_size=100, budget=budget, real=50_000, seed=0)
        limits = {"label_agreement": Limit(at_least=limit)}
        return judge(generator, real_side, samples, limits, None, evaluate_params.champion), len(generator.asked)

    far, batches = held_to(0.5, 40)
    assert (far.decision, batches) == ("promote", 10)
    agreement = entry_of(far, "label_agreement")
    assert agreement.value is not None
    assert agreement.low is not None
    # Inside the interval, so that half as many samples again would decide.
    near = agreement.value - 0.8 * widen_for_looks(3, 10) * (agreement.value - agreement.low)
    judged, batches = held_to(agreement.value - 0.8 * (agreement.value - agreement.low), 10)
    assert (judged.decision, batches) == ("inconclusive", 10)
    assert judged.reasons[0].endswith("samples would decide")
    judged, batches = held_to(near, 40)
    assert batches > 10
    # So near that the whole budget would not decide: given up at once.
    judged, batches = held_to(agreement.value - 0.05 * (agreement.value - agreement.low), 40)
    assert (judged.decision, batches) == ("inconclusive", 10)


def test_a_budget_below_the_first_look_is_refused() -> None:
    with pytest.raises(ParameterError, match="budget must be at least batches, 3, got 2"):
        SampleParams.parse({**FEW.model_dump(), "budget": 2}, "samples")


def test_looks_double_up_to_the_budget() -> None:
    sizes = FEW.model_copy(update={"batches": 10, "budget": 50}).looks
    assert sizes == [10, 20, 40, 50]
    assert FEW.looks == [3]


def test_images_are_rounded_to_the_levels_of_the_real_ones(prepared_digits: Dataset) -> None:
    assert prepared_digits.info.levels == 17
    real_levels = np.unique(prepared_digits.train.images)
    everything = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    rounded = to_levels(everything, 17)
    assert np.unique(rounded).tolist() == real_levels.tolist()
    assert np.abs(rounded.astype(int) - everything).max() <= 8
    assert np.array_equal(to_levels(prepared_digits.train.images, 17), prepared_digits.train.images)
    for levels in (1, 256):
        assert to_levels(everything, levels) is everything
