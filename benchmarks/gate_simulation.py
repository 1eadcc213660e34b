"""How often the gate errs: its own functions on made-up models whose truth is known.

    python -m benchmarks.gate_simulation [--trials 1000]

A model's features are standard normal but for their mean, which is off by what the recipe's excess Fréchet
distance says, times what the training seed makes of it. Both models draw the same latents. Prints Markdown.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from troika.quality.challenge import Challenge, ChampionParams, Fold, challenge
from troika.quality.gate import Limit, Measure, decide, widen_for_looks
from troika.quality.measures import Moments, distance_to, t_interval, wilson_interval
from troika.quality.real import FOLDS

FEATURES = 16
HELD_OUT = 600
TRUTH_BATCHES = 200
BATCH_SIZE = 500
LOOKS = (10, 20, 40)
PARAMS = ChampionParams(must="beat", seed_spread=0.15, false_promotion=0.005)
EXCESS = 1.0
"""Of the champion's recipe; the features' total variance is 16."""
NEAR = 0.2
"""Of one that is nearly as good as real images: so few held-out images hardly tell it from better ones."""


class World:
    """Real images as features, and models that are off by a known distance."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.held_out = rng.normal(size=(HELD_OUT, FEATURES))
        self.to_held_out = distance_to(Moments.of(self.held_out))
        train = rng.normal(size=(2 * HELD_OUT, FEATURES))
        subsets = [rng.choice(len(train), BATCH_SIZE, replace=False) for _ in range(5)]
        self._real = [Moments.of(train[rows]) for rows in subsets]
        self.floor = mean_distance(self.to_held_out, self._real)

    def model(self, excess: float, *, spread: float) -> NDArray[np.float64]:
        """Mean (D,) of the features of one training of a recipe."""
        direction = self.rng.normal(size=FEATURES)
        lucky = math.exp(spread * self.rng.normal())
        found: NDArray[np.float64] = direction / np.linalg.norm(direction) * math.sqrt(excess * lucky)
        return found

    def batches(self, *models: NDArray[np.float64]) -> Iterator[list[Moments]]:
        """One batch of each model after another, each time from the same latents."""
        while True:
            latents = self.rng.normal(size=(BATCH_SIZE, FEATURES))
            yield [Moments.of(latents + model) for model in models]

    def folds(self, ours: Sequence[Moments], theirs: Sequence[Moments]) -> list[Fold]:
        """As `RealSide.folds`."""
        found = []
        for part in np.array_split(np.arange(HELD_OUT), FOLDS):
            distance = distance_to(Moments.of(np.delete(self.held_out, part, axis=0)))
            found.append(tuple(mean_distance(distance, batches) for batches in (ours, theirs, self._real)))
        return found  # type: ignore[return-value]

    def compare(self, ours: Sequence[Moments], theirs: Sequence[Moments], looks: int) -> Challenge:
        """What the judge does with two tallies."""
        return challenge(
            [self.to_held_out(batch) for batch in ours],
            [self.to_held_out(batch) for batch in theirs],
            self.floor,
            PARAMS,
            batch_size=BATCH_SIZE,
            looks=looks,
            folds=self.folds(ours, theirs),
        )


def mean_distance(distance: Callable[[Moments], float], batches: Sequence[Moments]) -> float:
    """Mean of the distances of some batches."""
    return float(np.mean([distance(batch) for batch in batches]))


def duel(rng: np.random.Generator, ratio: float, *, spread: float, excess: float = EXCESS) -> str:
    """The verdict on a challenger whose recipe's excess is `ratio` times the champion's."""
    world = World(rng)
    drawn = world.batches(world.model(excess * ratio, spread=spread), world.model(excess, spread=spread))
    ours: list[Moments] = []
    theirs: list[Moments] = []
    decision = "inconclusive"
    for look in LOOKS:
        while len(ours) < look:
            for batches, batch in zip((ours, theirs), next(drawn), strict=True):
                batches.append(batch)
        found = world.compare(ours, theirs, len(LOOKS))
        decision = found.decision
        if decision != "inconclusive" or found.samples_to_decide is None:
            break
    return decision


def against_limit(rng: np.random.Generator, off: float) -> str:
    """The verdict on a model whose mean distance to this held-out set is `off` above a limit."""
    world = World(rng)
    drawn = world.batches(world.model(EXCESS, spread=0))
    truth = mean_distance(world.to_held_out, [next(drawn)[0] for _ in range(TRUTH_BATCHES)])
    limits = {"frechet_distance": Limit(at_most=truth - off)}
    values: list[float] = []
    decision = "inconclusive"
    for look in LOOKS:
        values += [world.to_held_out(next(drawn)[0]) for _ in range(look - len(values))]
        low, high = t_interval(values)
        measure = Measure(name="frechet_distance", value=float(np.mean(values)), low=low, high=high)
        decision = decide([measure], limits, widen=widen_for_looks(len(LOOKS), LOOKS[0])).decision
        if decision != "inconclusive":
            break
    return decision


def share_of_intervals_that_hold(rng: np.random.Generator, trials: int) -> dict[str, float]:
    """How often 95 % intervals hold the truth, by figure."""
    world = World(rng)
    drawn = world.batches(world.model(EXCESS, spread=0))
    truth = mean_distance(world.to_held_out, [next(drawn)[0] for _ in range(10 * TRUTH_BATCHES)])
    held = {
        "Fréchet distance to these held-out images (t, 10 batches)": 0,
        "ratio of excesses, any held-out images": 0,
    }
    for _ in range(trials):
        low, high = t_interval([world.to_held_out(next(drawn)[0]) for _ in range(10)])
        held["Fréchet distance to these held-out images (t, 10 batches)"] += low <= truth <= high
        other = World(rng)
        pairs = other.batches(other.model(EXCESS / 2, spread=0), other.model(EXCESS, spread=0))
        ours, theirs = zip(*(next(pairs) for _ in range(10)), strict=True)
        found = other.compare(ours, theirs, 1)
        held["ratio of excesses, any held-out images"] += found.low <= 0.5 <= found.high
    for share, count in ((0.995, 20_000), (0.97, 2000), (0.5, 200)):
        intervals = (wilson_interval(int(rng.binomial(count, share)), count) for _ in range(trials))
        held[f"share of {share:g} (Wilson, {count:,} samples)"] = sum(
            low <= share <= high for low, high in intervals
        )
    return {name: count / trials for name, count in held.items()}


def main(
    trials: Annotated[int, typer.Option(help="Of each case.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the whole simulation.")] = 0,
) -> None:
    """Print the tables."""
    rng = np.random.default_rng(seed)
    spread = PARAMS.seed_spread
    print(f"{trials:,} trials of each case, seed {seed}; a spread of training seeds of {spread:.0%}.\n")
    print("| challenger's excess, by the champion's | promote | reject | inconclusive |")
    print("|---|---|---|---|")
    cases = [
        ("1, the very same distance", 1.0, 0.0, EXCESS),
        ("1, another seed of the same recipe", 1.0, spread, EXCESS),
        ("1.2, worse", 1.2, spread, EXCESS),
        ("0.9, within the spread", 0.9, spread, EXCESS),
        ("1/2", 0.5, spread, EXCESS),
        ("1/3", 1 / 3, spread, EXCESS),
        ("1/4, clearly better", 1 / 4, spread, EXCESS),
        ("1, seeds spread by 25 % in truth", 1.0, 0.25, EXCESS),
        (f"1, of {NEAR:g} by {NEAR:g}, near to real images", 1.0, spread, NEAR),
        (f"1/3, of {NEAR / 3:.2g} by {NEAR:g}, near to real images", 1 / 3, spread, NEAR),
    ]
    for name, ratio, luck, excess in cases:
        found = Counter(duel(rng, ratio, spread=luck, excess=excess) for _ in range(trials))
        _print_row(name, found, trials)
    print("\n| true distance, against a limit | promote | reject | inconclusive |")
    print("|---|---|---|---|")
    for name, off in (("0.1 inside", -0.1), ("0.02 inside", -0.02), ("on it", 0.0), ("0.1 outside", 0.1)):
        _print_row(name, Counter(against_limit(rng, off) for _ in range(trials)), trials)
    print("\n| 95 % interval of | holds the truth |")
    print("|---|---|")
    for name, share in share_of_intervals_that_hold(rng, trials).items():
        print(f"| {name} | {share:.1%} |")


def _print_row(name: str, found: Counter[str], trials: int) -> None:
    shares = " | ".join(f"{found[decision] / trials:.1%}" for decision in ("promote", "reject", "inconclusive"))
    print(f"| {name} | {shares} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
