"""The judge: fresh samples of a generator against real images, limits and the champion -> one of three verdicts.

Draws batch after batch until the verdict is certain or the budget is spent. The champion draws the same latents
and labels, and is measured by the same evaluator. Knows neither files nor how models are trained.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from troika.datasets.contract import Images, Labels
from troika.errors import SamplesError
from troika.params import Params
from troika.quality.challenge import Challenge, ChampionParams, challenge
from troika.quality.gate import Decision, Judgement, Limit, decide, widen_for_looks
from troika.quality.measures import Moments, labels_to_ask_for
from troika.quality.real import RealSide
from troika.quality.tally import Tally


class SampleParams(Params):
    """How many images are looked at."""

    batches: int = Field(ge=2)
    """Fresh batches before the first verdict."""
    batch_size: int = Field(ge=100)
    budget: int = Field(ge=2)
    """Batches at most; more than `batches` are drawn only while the verdict is inconclusive."""
    real: int = Field(ge=100)
    """Real images of a split that are looked at, at most."""
    seed: int = Field(ge=0)

    def model_post_init(self, _context: object) -> None:
        """Refuse a budget below the first look."""
        if self.budget < self.batches:
            raise ValueError(f"budget must be at least batches, {self.batches}, got {self.budget}")

    @property
    def looks(self) -> list[int]:
        """After how many batches the verdict is asked for: twice as many each time."""
        sizes = [self.batches]
        while sizes[-1] < self.budget:
            sizes.append(min(2 * sizes[-1], self.budget))
        return sizes


class Generator(Protocol):
    """Whatever gives images."""

    @property
    def conditional(self) -> bool:
        """Whether it follows the label that is asked for."""

    def draw(self, seeds: NDArray[np.int64], labels: Labels) -> Images:
        """Images uint8 (N, H, W, C) for seeds (N,) and labels (N,)."""


@dataclass(frozen=True)
class Judged:
    """A verdict, and what it and the report are made of."""

    decision: Decision
    reasons: list[str]
    """Why: for `promote` what the challenge was won by, if there was one."""
    judgement: Judgement
    """Limits alone."""
    challenge: Challenge | None
    """Against the champion, if there is one."""
    tally: Tally
    champion: Tally | None
    champion_problem: str = ""
    """Why a champion that was given was not compared with."""


def judge(
    generator: Generator,
    real: RealSide,
    samples: SampleParams,
    limits: Mapping[str, Limit],
    champion: Generator | None,
    champion_params: ChampionParams,
    *,
    only_limits: bool = False,
) -> Judged:
    """Judge `generator`, against `champion` if one is given. The same arguments give the same verdict.

    Requested labels follow the held-out images' class counts, so that their mix is the right answer for a
    conditional generator and the target of an unconditional one. With `only_limits`, figures that no limit names
    are not measured and no samples kept: of use where there is no champion and nothing is reported.
    """
    rng = np.random.default_rng(samples.seed)
    ours = Tally(real, conditional=generator.conditional, only=limits if only_limits else None)
    theirs = Tally(real, conditional=champion.conditional) if champion is not None else None
    looks = samples.looks
    judged: Judged | None = None
    problem = ""
    drawn = 0
    for look in looks:
        for batch in range(drawn, look):
            seeds = samples.seed + np.arange(batch * samples.batch_size, (batch + 1) * samples.batch_size)
            labels = labels_to_ask_for(real.held_out.labels, samples.batch_size, rng)
            try:
                ours.add(generator.draw(seeds, labels), labels)
            except SamplesError as error:
                nothing = Judgement(decision="reject", reasons=[str(error)], measures=[])
                return Judged("reject", [str(error)], nothing, None, ours, None)
            if champion is not None and theirs is not None:
                try:
                    theirs.add(champion.draw(seeds, labels), labels)
                except SamplesError as error:
                    theirs, problem = None, f"the champion cannot be compared with, {error}"
        drawn = look
        judged = replace(_verdict(ours, theirs, real, samples, limits, champion_params), champion_problem=problem)
        if not _more_would_help(judged, samples):
            break
    assert judged is not None  # noqa: S101 - there is at least one look
    return judged


def _verdict(
    ours: Tally,
    theirs: Tally | None,
    real: RealSide,
    samples: SampleParams,
    limits: Mapping[str, Limit],
    params: ChampionParams,
) -> Judged:
    looks = len(samples.looks)
    judgement = decide(
        ours.measures(), limits, samples=ours.samples, widen=widen_for_looks(looks, samples.batches)
    )
    if theirs is None or params.must == "ignore":
        return Judged(judgement.decision, judgement.reasons, judgement, None, ours, theirs)
    held = challenge_of(ours, theirs, real, params, samples.batch_size, looks)
    decisions = (judgement.decision, held.decision)
    decision: Decision = (
        "reject" if "reject" in decisions else "inconclusive" if "inconclusive" in decisions else "promote"
    )
    reasons = [*judgement.reasons]
    if theirs.conditional and not ours.conditional and decision == "promote":
        decision = "inconclusive"
        reasons.append("the champion follows labels and this model does not: who asks for one would get any")
    if held.decision != "promote" or decision == "promote":
        reasons.append(held.reason)
    return Judged(decision, reasons, judgement, held, ours, theirs)


def challenge_of(
    ours: Tally, theirs: Tally, real: RealSide, params: ChampionParams, batch_size: int, looks: int = 1
) -> Challenge:
    """Two tallies of the same latents, compared on the evaluator's features; random features may object."""
    name, second = "frechet_distance", "random_frechet_distance"
    found = challenge(
        ours.batches[name],
        theirs.batches[name],
        real.floors[name],
        params,
        batch_size=batch_size,
        looks=looks,
        folds=[
            (_mean(distance, ours.moments), _mean(distance, theirs.moments), floor)
            for distance, floor in real.folds
        ],
    )
    if found.decision != "promote":
        return found
    other = challenge(
        ours.batches[second],
        theirs.batches[second],
        real.floors[second],
        params.model_copy(update={"must": "match"}),
        batch_size=batch_size,
        looks=looks,
    )
    if other.decision == "reject":
        reason = f"{found.reason}; but on random features {other.reason}: the two disagree"
        return found.model_copy(update={"decision": "inconclusive", "reason": reason})
    return found


def _mean(distance: Callable[[Moments], float], batches: Sequence[Moments]) -> float:
    return float(np.mean([distance(batch) for batch in batches]))


def _more_would_help(judged: Judged, samples: SampleParams) -> bool:
    """Whether the verdict is open, and the rest of the budget may decide it."""
    if judged.decision != "inconclusive":
        return False
    needed = [measure.samples_to_decide for measure in judged.judgement.measures if measure.result == "undecided"]
    if judged.challenge is not None and judged.challenge.decision == "inconclusive":
        needed.append(judged.challenge.samples_to_decide)
    # An estimate from a few batches may be off; what it puts far beyond the budget is given up.
    affordable = 2 * samples.budget * samples.batch_size
    return all(count is not None and count <= affordable for count in needed)
