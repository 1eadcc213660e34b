"""Champion against challenger: is the new model better than the released one, beyond chance and beyond luck?

Both have drawn from the same latents and labels, batch by batch, and were measured by the same evaluator today:
an old verdict's figure is never compared with. What is compared is each one's *excess*: its Fréchet distance less
that of real images, which takes away the bias that both share.

Three things make two models differ that are equally good: the samples that were drawn, the held-out images that
happen to be there (another few hundred would favour one a little more, the other a little less), and the training
seed, which moves the excess by more than sampling does. One model of each recipe is a sample of size one: a gap
inside the spread of seeds is not a result. Does not look at limits; gate.py does.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import stats

from troika.params import Params
from troika.quality.gate import Decision
from troika.quality.measures import t_interval

Fold = tuple[float, float, float]
"""Distance of the challenger, of the champion, and of real images."""


class ChampionParams(Params):
    """What a challenger must do to replace a released model."""

    must: Literal["beat", "match", "ignore"]
    """beat: be better beyond doubt. match: not be worse beyond doubt. ignore: only limits count."""
    seed_spread: float = Field(ge=0, lt=1)
    """Standard deviation of the excess over training seeds, as a share of it."""
    false_promotion: float = Field(gt=0, lt=0.5)
    """How often a model that is no better may pass for one."""


class Challenge(BaseModel):
    """The outcome; ratios are of excesses, the challenger's by the champion's: below 1 is better."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    decision: Decision
    """What follows from the comparison alone."""
    reason: str
    """It in words."""
    ratio: float
    """Excess of the challenger by that of the champion."""
    low: float
    """Lower end of its 95 % interval for these two models: samples drawn and held-out images, not seeds."""
    high: float
    """Upper end of it."""
    needed: float
    """The ratio that would have been enough (`beat`), or the first that is too much (`match`)."""
    samples_to_decide: int | None = None
    """Where it is inconclusive and more samples help: about how many would decide."""
    seeds_to_decide: int | None = None
    """Where no number of samples would: about how many models of each recipe."""


def challenge(
    challenger: Sequence[float],
    champion: Sequence[float],
    floor: float,
    params: ChampionParams,
    *,
    batch_size: int,
    looks: int = 1,
    folds: Sequence[Fold] = (),
) -> Challenge:
    """Compare Fréchet distances of two models, measured on the same latents.

    With excesses c and h, log(c / h) has the error of its paired batches (delta method, t-interval), that of the
    held-out images (delete-a-group jackknife, Efron and Stein 1981), and that of two seeds, root 2 times
    `seed_spread`.

    Args:
        challenger: distance of each batch, (B,), B >= 2.
        champion: of the same batches.
        floor: the distance of real images at this batch size.
        params: what is asked for.
        batch_size: samples in a batch, to say how many would decide.
        looks: how many times one may look and stop as soon as it is decided.
        folds: the same three distances, each time with some of the held-out images left out; none: the
            held-out images are taken for all there are.
    """
    ours, theirs = np.asarray(challenger, np.float64), np.asarray(champion, np.float64)
    if ours.shape != theirs.shape or ours.ndim != 1 or len(ours) < 2:
        raise ValueError(f"two rows of at least 2 distances are needed, not {ours.shape} and {theirs.shape}")
    count = len(ours)
    # An excess below what sampling can tell from none counts as that much.
    smallest = max(_half_width(ours), _half_width(theirs), 1e-3 * floor, 1e-12)
    our_excess = max(float(ours.mean()) - floor, smallest)
    their_excess = max(float(theirs.mean()) - floor, smallest)
    gap = math.log(our_excess / their_excess)
    error = float(stats.sem(ours / our_excess - theirs / their_excess))
    held_out = _jackknife([_gap(fold, smallest) for fold in folds])
    # Looking again draws other samples, but neither other held-out images nor other seeds.
    sure = 1 - params.false_promotion
    by_samples = error * float(stats.t.ppf(1 - params.false_promotion / looks, count - 1))
    by_images = held_out * float(stats.t.ppf(sure, max(1, len(folds) - 1)))
    by_seeds = params.seed_spread * math.sqrt(2) * float(stats.norm.ppf(sure))
    fixed = math.hypot(by_images, by_seeds)
    half = math.hypot(by_samples, fixed)
    shown = math.hypot(
        error * float(stats.t.ppf(0.975, count - 1)), held_out * float(stats.t.ppf(0.975, max(1, len(folds) - 1)))
    )
    ratio = math.exp(gap)
    decision: Decision
    samples = seeds = None
    if params.must == "ignore":
        decision, reason = "promote", f"is not compared: {_words(ratio)}"
    elif params.must == "match":
        decision = "reject" if gap - half > 0 else "promote"
        reason = f"{_words(ratio)}, {'beyond' if decision == 'reject' else 'within'} chance and training seeds"
    elif gap + half < 0:
        decision, reason = "promote", f"{_words(ratio)}, beyond chance and training seeds"
    elif gap >= 0:
        decision, reason = "reject", f"{_words(ratio)}: no better"
    else:
        decision = "inconclusive"
        if gap + fixed < 0:
            samples = math.ceil(count * batch_size * by_samples**2 / (gap**2 - fixed**2))
            more = f"about {samples:,} samples would decide"
        elif gap + by_images < 0:
            seeds = max(2, math.ceil((by_seeds**2) / (gap**2 - by_images**2)))
            more = f"within the spread of training seeds; about {seeds:,} seeds of each recipe would decide"
        else:
            more = "within what so few held-out images can tell"
        reason = f"{_words(ratio)}, but {more}"
    needed = math.exp(half if params.must == "match" else -half)
    return Challenge(
        decision=decision,
        reason=reason,
        ratio=ratio,
        low=math.exp(gap - shown),
        high=math.exp(gap + shown),
        needed=needed,
        samples_to_decide=samples,
        seeds_to_decide=seeds,
    )


def _gap(fold: Fold, smallest: float) -> float:
    ours, theirs, floor = fold
    return math.log(max(ours - floor, smallest) / max(theirs - floor, smallest))


def _jackknife(values: Sequence[float]) -> float:
    """Standard error of a figure that was computed once for each group left out; 0 without groups."""
    count = len(values)
    return math.sqrt((count - 1) * float(np.var(values))) if count > 1 else 0.0


def _half_width(values: NDArray[np.float64]) -> float:
    low, high = t_interval(values.tolist())
    return (high - low) / 2


def _words(ratio: float) -> str:
    if abs(ratio - 1) < 0.005:
        return "as far from real images as the champion"
    if ratio < 1:
        return f"{1 - ratio:.0%} nearer to real images than the champion"
    if ratio < 2:
        return f"{ratio - 1:.0%} farther from real images than the champion"
    return f"{ratio:,.1f} times as far from real images as the champion"
