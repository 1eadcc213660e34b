"""The gate's self-test: known-bad generators go through it in every run, and each must be refused."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from troika.errors import GateBrokenError
from troika.quality.challenge import ChampionParams
from troika.quality.gate import Decision, Limit
from troika.quality.judge import SampleParams, challenge_of, judge
from troika.quality.real import RealSide
from troika.quality.spoiled import Spoiled, real_images, spoiled_generators
from troika.quality.tally import Tally

_BATCHES = 3
_FEWEST = 2
"""Batches that a comparison needs."""
_MOST_SAMPLES = 1000


class SelfTestRow(BaseModel):
    """What became of one known-bad generator."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """The defect."""
    decision: Decision
    """What the gate made of it."""
    failed: list[str]
    """Figures outside their limits; where an expected one is, the others are not looked at."""
    expected: list[str]
    """Figures any of which should be."""
    reason: str
    """The first reason of that decision."""
    control: bool = False
    """Not a bad generator but real images, which should pass."""


def self_test(
    real: RealSide,
    samples: SampleParams,
    limits: Mapping[str, Limit],
    champion_params: ChampionParams,
    released: Tally,
) -> list[SelfTestRow]:
    """Judge every known-bad generator.

    Args:
        real: the run's own real images.
        samples: the run's; three small batches of each are enough, as none of them is a close call.
        limits: the run's.
        champion_params: the run's.
        released: the champion's tally, or without one the candidate's: as a challenger of itself it must not win.

    Returns:
        one row each, and as the last the control: real images, which should pass.

    Raises:
        GateBrokenError: one of them would not be rejected, or the champion would replace itself; names it.
    """
    size = min(samples.batch_size, _MOST_SAMPLES)
    few = samples.model_copy(update={"batches": _BATCHES, "budget": _BATCHES, "batch_size": size})

    def row(spoiled: Spoiled, *, control: bool = False) -> SelfTestRow:
        # The control is a close call where a limit is tight.
        drawn = few.model_copy(update={"batch_size": samples.batch_size}) if control else few
        # What some of the limits refuse, all of them refuse.
        telling = {name: limits[name] for name in spoiled.seen_by if name in limits}
        judged = judge(spoiled, real, drawn, telling, None, champion_params, only_limits=True) if telling else None
        if judged is None or judged.decision != "reject":
            judged = judge(spoiled, real, drawn, limits, None, champion_params, only_limits=True)
        failed = [measure.name for measure in judged.judgement.measures if measure.result == "failed"]
        expected = list(telling)
        # What gives it away, before what else is off or open.
        starts = [f"{name} = " for name in [*(name for name in expected if name in failed), *failed]]
        reasons = [reason for start in starts for reason in judged.reasons if reason.startswith(start)]
        return SelfTestRow(
            name=spoiled.name,
            decision=judged.decision,
            failed=failed,
            expected=expected,
            reason=next(iter(reasons + judged.reasons), ""),
            control=control,
        )

    rows = [row(spoiled) for spoiled in spoiled_generators(real, conditional=released.conditional)]
    half = len(released.moments) // 2
    if champion_params.must == "beat" and half >= _FEWEST:
        # On other latents, so that it is no tautology.
        first, second = released.part(slice(0, half)), released.part(slice(half, 2 * half))
        itself = challenge_of(first, second, real, champion_params, samples.batch_size)
        rows.append(
            SelfTestRow(
                name="the champion itself",
                decision=itself.decision,
                failed=[],
                expected=[],
                reason=itself.reason,
            )
        )
    broken = [
        entry.name
        for entry in rows
        if entry.decision == "promote" or (entry.decision == "inconclusive" and entry.expected)
    ]
    if broken:
        raise GateBrokenError(
            f"gate broken: it would not refuse {', '.join(broken)}, so no verdict of it means anything; "
            "tighten evaluate.limits"
        )
    return [*rows, row(real_images(real, conditional=released.conditional), control=True)]
