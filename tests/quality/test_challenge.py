"""A challenger replaces the champion only if it is better beyond chance and beyond the luck of a training seed."""

import math
from typing import Any

import numpy as np
import pytest

from benchmarks.gate_simulation import PARAMS, duel, share_of_intervals_that_hold
from troika.errors import ParameterError
from troika.quality.challenge import Challenge, ChampionParams, challenge

FLOOR = 1.0


def beat(**changes: Any) -> ChampionParams:
    return ChampionParams.parse(
        {"must": "beat", "seed_spread": 0.12, "false_promotion": 0.005, **changes}, "champion"
    )


def distances(excess: float, noise: float = 0.01, seed: int = 0, count: int = 10) -> list[float]:
    """Batches whose mean is exactly the floor and `excess`."""
    drawn = np.random.default_rng(seed).normal(size=count)
    return list(FLOOR + excess + noise * (drawn - drawn.mean()))


def compare(ours: list[float], theirs: list[float], **changes: Any) -> Challenge:
    return challenge(ours, theirs, FLOOR, beat(**changes), batch_size=2000)


def test_the_ratio_is_of_what_lies_above_real_images() -> None:
    found = compare(distances(0.2), distances(0.8))
    assert found.ratio == pytest.approx(0.25)
    assert found.low < 0.25 < found.high


@pytest.mark.parametrize(
    ("excess", "decision", "words"),
    [
        (0.2, "promote", "75% nearer to real images than the champion, beyond chance and training seeds"),
        (
            0.7,
            "inconclusive",
            "13% nearer to real images than the champion, but within the spread of training seeds",
        ),
        (0.8, "reject", "as far from real images as the champion: no better"),
        (1.2, "reject", "50% farther from real images than the champion: no better"),
        (2.4, "reject", "3.0 times as far from real images as the champion: no better"),
    ],
)
def test_only_a_gap_beyond_the_spread_of_seeds_is_a_result(excess: float, decision: str, words: str) -> None:
    found = compare(distances(excess), distances(0.8))
    assert (found.decision, found.reason.startswith(words)) == (decision, True), found.reason


def test_without_a_spread_of_seeds_a_small_gap_is_one() -> None:
    assert compare(distances(0.7), distances(0.8), seed_spread=0.0).decision == "promote"


def test_the_gap_that_is_needed_is_that_of_two_seeds() -> None:
    needed = compare(distances(0.7, noise=0), distances(0.8, noise=0)).needed
    # 99.5 % of the normal distribution lies below 2.5758; two seeds differ by root 2 times one's spread.
    assert needed == pytest.approx(math.exp(-2.5758 * 0.12 * math.sqrt(2)), rel=1e-4)


def test_the_same_latents_take_noise_away() -> None:
    """Paired: what moves both moves the comparison little."""
    shared = np.random.default_rng(0).normal(size=10) * 0.1
    ours, theirs = list(1.4 + 0.4 * shared), list(1.8 + 0.8 * shared)
    paired = compare(ours, theirs)
    apart = compare(ours, theirs[::-1])
    assert paired.high - paired.low < 0.1 * (apart.high - apart.low)


def test_seeds_and_samples_that_would_decide_are_told() -> None:
    by_seeds = compare(distances(0.6), distances(0.8))
    gap, spread = math.log(0.75), 2.5758 * 0.12 * math.sqrt(2)
    assert by_seeds.seeds_to_decide == math.ceil((spread / gap) ** 2) == 3
    assert by_seeds.reason.endswith("about 3 seeds of each recipe would decide")
    noisy = compare(distances(0.4, noise=0.5, seed=1), distances(0.8, noise=0.5, seed=2))
    assert noisy.decision == "inconclusive"
    assert noisy.samples_to_decide is not None
    assert noisy.samples_to_decide > 20_000
    assert noisy.seeds_to_decide is None


def test_few_held_out_images_make_it_less_certain() -> None:
    ours, theirs = distances(0.2), distances(0.8)
    steady = [(1.2, 1.8, 1.0)] * 20
    assert challenge(ours, theirs, FLOOR, beat(), batch_size=2000, folds=steady).decision == "promote"
    # Each twentieth of the images left out changes much: others might say the contrary.
    shaky = [(1.2 + 0.1 * (-1) ** fold, 1.8 - 0.1 * (-1) ** fold, 1.0) for fold in range(20)]
    found = challenge(ours, theirs, FLOOR, beat(), batch_size=2000, folds=shaky)
    assert found.decision == "inconclusive"
    assert found.reason.endswith("within what so few held-out images can tell")


def test_at_the_floor_nothing_is_left_to_win() -> None:
    found = compare(distances(-0.05), distances(-0.02))
    assert (found.decision, found.ratio) == ("reject", 1)
    assert math.isfinite(compare(distances(-0.05), distances(0.8)).ratio)
    assert math.isfinite(challenge([0.0, 0.0], [0.0, 0.0], 0.0, beat(), batch_size=1).ratio)


def test_a_model_is_no_better_than_itself() -> None:
    for noise in (0.0, 0.01, 0.3):
        ours = distances(0.8, noise=noise)
        assert compare(ours, ours).decision == "reject"


def test_to_match_is_not_to_be_worse_beyond_doubt() -> None:
    assert compare(distances(0.85), distances(0.8), must="match").decision == "promote"
    assert compare(distances(0.2), distances(0.8), must="match").decision == "promote"
    worse = compare(distances(1.6), distances(0.8), must="match")
    assert (worse.decision, worse.reason) == (
        "reject",
        "100% farther from real images than the champion, beyond chance and training seeds",
    )


def test_ignoring_the_champion_promotes_anything() -> None:
    assert compare(distances(9.0), distances(0.8), must="ignore").decision == "promote"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"must": "win"}, "must: Input should be 'beat', 'match' or 'ignore'"),
        ({"seed_spread": -0.1}, "seed_spread: Input should be greater than or equal to 0"),
        ({"seed_spread": 1.0}, "seed_spread: Input should be less than 1"),
        ({"false_promotion": 0.0}, "false_promotion: Input should be greater than 0"),
        ({"false_promotion": 0.5}, "false_promotion: Input should be less than 0.5"),
    ],
)
def test_a_wrong_parameter_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError) as caught:
        beat(**changes)
    assert words in str(caught.value)


@pytest.mark.parametrize(("ours", "theirs"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([[1.0, 2.0]], [[1.0, 2.0]])])
def test_distances_of_the_same_batches_are_needed(ours: Any, theirs: Any) -> None:
    with pytest.raises(ValueError, match="two rows of at least 2 distances are needed"):
        challenge(ours, theirs, FLOOR, beat(), batch_size=100)


def test_simulated_equals_pass_once_in_a_hundred_at_most_and_clearly_better_ones_almost_always() -> None:
    """A short run of benchmarks/gate_simulation.py, whose table stands in docs/gate-simulation.md."""
    rng = np.random.default_rng(1)
    equal = [duel(rng, 1.0, spread=PARAMS.seed_spread) for _ in range(60)]
    better = [duel(rng, 1 / 4, spread=PARAMS.seed_spread) for _ in range(30)]
    # Of 60 at 1 %, more than 3 have a chance of 0.3 %; of 30 at 5 %, more than 5 have one of 0.3 %.
    assert equal.count("promote") <= 3
    assert len(better) - better.count("promote") <= 5


def test_simulated_intervals_hold_the_truth() -> None:
    held = share_of_intervals_that_hold(np.random.default_rng(0), 60)
    # Of 60 at 95 %, fewer than 51 have a chance of 0.2 %.
    assert all(share >= 51 / 60 for share in held.values()), held
