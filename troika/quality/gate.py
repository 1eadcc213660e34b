"""The gate: measured intervals against limits -> promote, reject or inconclusive.

Knows nothing of images: what a figure means and how it was measured is judge.py's business.
"""

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from troika.params import Params

Decision = Literal["promote", "reject", "inconclusive"]


class Limit(Params):
    """The worst value that still passes; exactly one of the two is given."""

    at_least: float | None = None
    at_most: float | None = None

    def model_post_init(self, _context: object) -> None:
        """Refuse a limit with no bound or with two."""
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give exactly one of at_least and at_most")

    def __str__(self) -> str:
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"

    def check(self, low: float, high: float) -> Literal["passed", "failed", "undecided"]:
        """Compare a 95 % interval with this limit; undecided when the limit lies inside the interval."""
        if self.at_least is not None:
            return "passed" if low >= self.at_least else "failed" if high < self.at_least else "undecided"
        assert self.at_most is not None  # noqa: S101 - model_post_init has seen to it
        return "passed" if high <= self.at_most else "failed" if low > self.at_most else "undecided"


class Measure(BaseModel):
    """One figure of a judgement."""

    model_config = ConfigDict(frozen=True)

    name: str
    value: float | None
    """None: could not be measured; `note` says why."""
    low: float | None = None
    high: float | None = None
    """95 % interval."""
    floor: float | None = None
    """The same figure for real images, where that makes sense."""
    limit: str | None = None
    """In words, such as `>= 0.97`; None: reported only."""
    result: Literal["passed", "failed", "undecided", "reported"] = "reported"
    note: str = ""


class Judgement(BaseModel):
    """All figures and what follows from them."""

    model_config = ConfigDict(frozen=True)

    decision: Decision
    reasons: list[str] = Field(default_factory=list)
    """Empty for `promote`; else one sentence for each limit that was not kept."""
    measures: list[Measure]


def decide(measures: list[Measure], limits: Mapping[str, Limit]) -> Judgement:
    """Hold every limit against the measure of its name.

    A limit whose measure is missing or not finite fails: a gate that cannot see does not open. The exception is a
    measure that says in its note that it does not apply to this kind of model.
    """
    by_name = {measure.name: measure for measure in measures}
    judged: list[Measure] = [measure for measure in measures if measure.name not in limits]
    reasons = []
    for name, limit in limits.items():
        measure = by_name.get(name, Measure(name=name, value=None, note="was not measured"))
        judged.append(_held_against(measure, limit))
        if judged[-1].result in ("failed", "undecided"):
            reasons.append(_reason(judged[-1]))
    results = {measure.result for measure in judged}
    decision: Decision = (
        "reject" if "failed" in results else "inconclusive" if "undecided" in results else "promote"
    )
    order = [measure.name for measure in measures]
    judged.sort(key=lambda measure: order.index(measure.name) if measure.name in order else len(order))
    return Judgement(decision=decision, reasons=reasons, measures=judged)


NOT_APPLICABLE = "does not apply"


def _held_against(measure: Measure, limit: Limit) -> Measure:
    if measure.value is None:
        result = "reported" if measure.note.startswith(NOT_APPLICABLE) else "failed"
        return measure.model_copy(update={"limit": str(limit), "result": result})
    low = measure.value if measure.low is None else measure.low
    high = measure.value if measure.high is None else measure.high
    sound = low <= high and all(map(math.isfinite, (measure.value, low, high)))
    result = limit.check(low, high) if sound else "failed"
    return measure.model_copy(update={"limit": str(limit), "result": result})


def _reason(measure: Measure) -> str:
    if measure.value is None:
        return f"{measure.name} {measure.note}, but its limit is {measure.limit}"
    interval = "" if measure.low is None or measure.high is None else f" [{measure.low:.4g}, {measure.high:.4g}]"
    verb = "is outside" if measure.result == "failed" else "is too close to call against"
    return f"{measure.name} = {measure.value:.4g}{interval} {verb} the limit {measure.limit}"
