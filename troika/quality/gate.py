"""The gate: measured intervals against limits -> promote, reject or inconclusive.

Knows nothing of images: what a figure means and how it was measured is judge.py's business. Nor of a champion:
challenge.py compares two models.
"""

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from scipy import stats

from troika.params import Params

Decision = Literal["promote", "reject", "inconclusive"]
Bound = tuple[Literal["at_least", "at_most"], float]


class Limit(Params):
    """The worst value that still passes; exactly one of the four is given.

    The last two are relative to the floor, the figure of real images: they mean the same for any data set.
    """

    at_least: float | None = None
    at_most: float | None = None
    below_floor: float | None = Field(default=None, ge=0)
    """At least the floor less this."""
    above_floor: float | None = Field(default=None, ge=0)
    """At most the floor and this; of a Fréchet distance in units of the real features' total variance."""

    def model_post_init(self, _context: object) -> None:
        """Refuse a limit with no bound or with two."""
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError(
                "give exactly one of at_least, at_most, below_floor and above_floor (null: not this one)"
            )

    def bound(self, floor: float | None = None, unit: float = 1.0) -> Bound | None:
        """The limit as a number; None where it is relative to a floor that is not known."""
        if self.at_least is not None:
            return "at_least", self.at_least
        if self.at_most is not None:
            return "at_most", self.at_most
        if floor is None or not math.isfinite(floor):
            return None
        if self.below_floor is not None:
            return "at_least", floor - self.below_floor
        return "at_most", floor + (self.above_floor or 0.0) * unit


class Measure(BaseModel):
    """One figure of a judgement."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """As in `evaluate.limits` of params.yaml."""
    value: float | None
    """The figure; None: could not be measured, and `note` says why."""
    low: float | None = None
    """Lower end of the 95 % interval."""
    high: float | None = None
    """Upper end of the 95 % interval."""
    floor: float | None = None
    """The same figure for real images, where that makes sense."""
    unit: float = 1.0
    """What a limit relative to the floor counts in."""
    limit: str | None = None
    """In words, such as `>= 0.97`; None: reported only."""
    at_least: float | None = None
    """The limit as a number, where it is a lower one."""
    at_most: float | None = None
    """The limit as a number, where it is an upper one."""
    result: Literal["passed", "failed", "undecided", "reported"] = "reported"
    """Where the whole interval lies: inside the limit, outside, across it; `reported`: there is no limit."""
    by_samples: bool = True
    """Whether more samples make its interval narrower; if not, more held-out images would."""
    samples_to_decide: int | None = None
    """Of an undecided figure: about how many samples would decide, if its value stays."""
    note: str = ""
    """What is measured, or why it was not."""


class Judgement(BaseModel):
    """All figures and what follows from them."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    decision: Decision
    reasons: list[str] = Field(default_factory=list)
    """Empty for `promote`; else one sentence for each limit that was not kept."""
    measures: list[Measure]


def decide(
    measures: list[Measure], limits: Mapping[str, Limit], *, samples: int | None = None, widen: float = 1.0
) -> Judgement:
    """Hold every limit against the measure of its name.

    A limit whose measure is missing or not finite fails: a gate that cannot see does not open. The exception is a
    measure that says in its note that it does not apply to this kind of model.

    Args:
        measures: with 95 % intervals.
        limits: by name of a measure.
        samples: how many samples the intervals come from; known, an undecided figure says how many would decide.
        widen: how many times as wide as they are the intervals are held against limits, see `widen_for_looks`.
    """
    by_name = {measure.name: measure for measure in measures}
    judged: list[Measure] = [measure for measure in measures if measure.name not in limits]
    reasons = []
    for name, limit in limits.items():
        measure = by_name.get(name, Measure(name=name, value=None, note="was not measured"))
        judged.append(_held_against(measure, limit, samples, widen))
        if judged[-1].result in ("failed", "undecided"):
            reasons.append(_reason(judged[-1], limit))
    results = {measure.result for measure in judged}
    decision: Decision = (
        "reject" if "failed" in results else "inconclusive" if "undecided" in results else "promote"
    )
    order = [measure.name for measure in measures]
    judged.sort(key=lambda measure: order.index(measure.name) if measure.name in order else len(order))
    return Judgement(decision=decision, reasons=reasons, measures=judged)


def widen_for_looks(looks: int, batches: int) -> float:
    """How much wider 95 % intervals must be if one may look `looks` times and stop as soon as one decides.

    Each look then errs with 5 % / looks (Bonferroni). For t-intervals of `batches` batches; of Wilson's, whose
    quantile is the normal one, it widens a little too much.
    """
    degrees = batches - 1
    return float(stats.t.ppf(1 - 0.025 / looks, degrees) / stats.t.ppf(0.975, degrees))


NOT_APPLICABLE = "does not apply"
_HOPELESS = 1000
"""How many times narrower an interval may have to become; a million times the samples."""


def _held_against(measure: Measure, limit: Limit, samples: int | None, widen: float) -> Measure:
    bound = limit.bound(measure.floor, measure.unit)
    if measure.value is None and measure.note.startswith(NOT_APPLICABLE):
        return measure.model_copy(update=_limit_fields(limit, bound))
    if bound is None or measure.value is None:
        return measure.model_copy(update={**_limit_fields(limit, bound), "result": "failed"})
    low = measure.value if measure.low is None else measure.low
    high = measure.value if measure.high is None else measure.high
    sound = low <= high and all(map(math.isfinite, (measure.value, low, high)))
    if not sound:
        return measure.model_copy(update={**_limit_fields(limit, bound), "result": "failed"})
    # A value may lie outside its own interval only by rounding.
    low = measure.value - widen * max(measure.value - low, 0.0)
    high = measure.value + widen * max(high - measure.value, 0.0)
    result = _check(bound, low, high)
    update: dict[str, str | float | None] = {**_limit_fields(limit, bound), "result": result}
    if result == "undecided" and samples is not None and measure.by_samples:
        update["samples_to_decide"] = _samples_to_decide(measure.value, low, high, bound[1], samples)
    return measure.model_copy(update=update)


def _check(bound: Bound, low: float, high: float) -> Literal["passed", "failed", "undecided"]:
    """Compare an interval with a limit; undecided when the limit lies inside the interval."""
    side, value = bound
    if side == "at_least":
        return "passed" if low >= value else "failed" if high < value else "undecided"
    return "passed" if high <= value else "failed" if low > value else "undecided"


def _samples_to_decide(value: float, low: float, high: float, bound: float, samples: int) -> int | None:
    """Half-widths shrink with the root of the number of samples; None: the value lies on the limit."""
    half = high - value if bound > value else value - low
    gap = abs(bound - value)
    return None if half > _HOPELESS * gap else math.ceil(samples * (half / gap) ** 2)


def _limit_fields(limit: Limit, bound: Bound | None) -> dict[str, str | float]:
    if bound is None:
        kind, value = next(iter(limit.model_dump(exclude_none=True).items()))
        return {"limit": f"{kind.replace('_', ' ')} {value:g}"}
    side, value = bound
    return {"limit": f"{'>=' if side == 'at_least' else '<='} {value:.4g}", side: value}


def _reason(measure: Measure, limit: Limit) -> str:
    if measure.value is None:
        return f"{measure.name} {measure.note}, but its limit is {measure.limit}"
    if limit.bound(measure.floor, measure.unit) is None:
        return f"{measure.name} has no figure of real images to compare with, but its limit is {measure.limit}"
    interval = "" if measure.low is None or measure.high is None else f" [{measure.low:.4g}, {measure.high:.4g}]"
    verb = "is outside" if measure.result == "failed" else "is too close to call against"
    more = ""
    if measure.samples_to_decide is not None:
        more = f"; about {measure.samples_to_decide:,} samples would decide"
    return f"{measure.name} = {measure.value:.4g}{interval} {verb} the limit {measure.limit}{more}"
