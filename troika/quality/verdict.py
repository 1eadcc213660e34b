"""The verdict as it is written down, verdict.json; its schema is made of what stands here.

docs/verdict.md explains it. Decides nothing and measures nothing: judge.py has.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from troika.quality.challenge import Challenge
from troika.quality.gate import Decision, Measure
from troika.quality.judge import Judged
from troika.quality.self_test import SelfTestRow

_NAMED = 3
"""Figures that one sentence can take."""
_TITLES = {
    "frechet_distance": "Fréchet distance",
    "frechet_distance_at_infinity": "Fréchet distance, extrapolated",
    "frechet_distance_to_train": "Fréchet distance to training images",
    "random_frechet_distance": "Fréchet distance, random features",
    "inception_frechet_distance": "Fréchet distance, given network",
    "kernel_distance": "Kernel distance (KID)",
    "memorisation_pixels": "Memorisation, in pixels",
    "duplicates_pixels": "Duplicates, in pixels",
}
"""Of figures whose names alone would not read well."""


class Champion(BaseModel):
    """The released model that the judged one was compared with."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    model: str
    """The name it is served by."""
    digest: str = Field(pattern="^sha256:[0-9a-f]{64}$")
    """Of its bundle."""
    version: int | None = None
    """Of its release; null where it has none."""


class Verdict(BaseModel):
    """What `evaluate` found out about one bundle."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, title="Troika verdict")

    schema_version: Literal[2] = 2
    """Of this form."""
    model: str
    """The name that the bundle is served by."""
    bundle_digest: str
    """What was judged."""
    dataset_content_hash: str
    """What it was trained on and judged with."""
    evaluator_digest: str
    """The classifier that judged; champion and challenger share it."""
    reference_sha256: str
    """The file that holds what the figures were measured against, for who measures the live model."""
    code_commit: str
    """Of the judging code."""
    decision: Decision
    """`promote` alone lets a bundle be published."""
    reasons: list[str]
    """One sentence each: of every limit that was not kept, and of the comparison."""
    samples: int = Field(ge=0)
    """Images that were drawn of the model, and as many of the champion."""
    batches: int = Field(ge=0)
    """Fresh batches that they came in; intervals of distances have one degree of freedom less."""
    measures: list[Measure]
    """All figures; empty where the model gave no usable images."""
    champion: Champion | None
    """null: nothing had been released."""
    champion_note: str = ""
    """How the champion enters the verdict, or why it does not."""
    challenge: Challenge | None
    """The comparison with it; null without a champion, or where limits alone count."""
    champion_measures: list[Measure]
    """The champion's figures on the same latents, measured today; without limits."""
    self_test: list[SelfTestRow]
    """Known-bad generators, and as the last one real images; empty where it was switched off."""
    params: dict[str, Any]
    """Section `evaluate` of params.yaml."""

    @classmethod
    def of(
        cls,
        judged: Judged,
        *,
        model: str,
        identity: Mapping[str, str],
        self_test: list[SelfTestRow],
        champion: Champion | None,
        champion_note: str = "",
        params: Mapping[str, Any],
    ) -> Self:
        """Write down what `judge` returned.

        Args:
            judged: that.
            model: the name that the bundle is served by.
            identity: bundle_digest, dataset_content_hash, evaluator_digest, reference_sha256, code_commit.
            self_test: its rows; none if it is switched off.
            champion: the released model, even if `judged` has no tally of it.
            champion_note: how it enters the verdict, or why it does not; a sentence without a full stop.
            params: section `evaluate`, plain data.
        """
        return cls.model_validate(
            {
                **identity,
                "model": model,
                "decision": judged.decision,
                "reasons": judged.reasons,
                "samples": judged.tally.samples,
                "batches": max((len(values) for values in judged.tally.batches.values()), default=0),
                "measures": judged.judgement.measures,
                "champion": champion,
                "champion_note": champion_note,
                "challenge": judged.challenge,
                "champion_measures": judged.champion.measures() if judged.champion is not None else [],
                "self_test": self_test,
                "params": dict(params),
            }
        )

    def to_json(self) -> str:
        """The file's content. NaN and infinity, which JSON lacks, become null."""
        return self.model_dump_json(indent=1) + "\n"

    @property
    def headline(self) -> str:
        """The verdict and why, in one sentence."""
        return {"promote": _promoted, "reject": _rejected, "inconclusive": _inconclusive}[self.decision](self)


def title(name: str) -> str:
    """A figure's name for people: `class_balance` -> `Class balance`."""
    return _TITLES.get(name, name.replace("_", " ").capitalize())


def verdict_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of verdict.json."""
    schema = Verdict.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_text() -> str:
    """Content of docs/verdict.schema.json."""
    return json.dumps(verdict_schema(), indent=2, ensure_ascii=False) + "\n"


def _promoted(verdict: Verdict) -> str:
    if verdict.challenge is not None:
        return f"Promoted: {_all_kept(verdict)}, and the model is {verdict.challenge.reason}."
    why = (
        "no champion is released that it would have to beat" if verdict.champion is None else "limits alone count"
    )
    return f"Promoted: {_all_kept(verdict)}; {verdict.champion_note or why}."


def _rejected(verdict: Verdict) -> str:
    failed = [measure for measure in verdict.measures if measure.result == "failed"]
    if failed:
        held = sum(measure.result != "reported" for measure in verdict.measures)
        broken = f"{len(failed)} of {held} limits {'is' if len(failed) == 1 else 'are'} broken"
        return f"Rejected: {broken}: {_listed(failed)}."
    if verdict.challenge is not None and verdict.challenge.decision == "reject":
        return f"Rejected: {_all_kept(verdict)}, but the model is {verdict.challenge.reason}."
    return f"Rejected: {'; '.join(verdict.reasons) or 'no reason was given'}."


def _inconclusive(verdict: Verdict) -> str:
    undecided = [measure for measure in verdict.measures if measure.result == "undecided"]
    if undecided:
        needed = [measure.samples_to_decide for measure in undecided]
        known = [count for count in needed if count is not None]
        more = f"; about {max(known):,} samples would decide" if len(known) == len(needed) else ""
        return f"Inconclusive: too close to call: {_listed(undecided)}{more}."
    if verdict.challenge is not None and verdict.challenge.decision == "inconclusive":
        return f"Inconclusive: {_all_kept(verdict)}; the model is {verdict.challenge.reason}."
    return f"Inconclusive: {'; '.join(verdict.reasons) or 'no reason was given'}."


def _all_kept(verdict: Verdict) -> str:
    kept = sum(measure.result == "passed" for measure in verdict.measures)
    return {0: "there are no limits to keep", 1: "the one limit is kept"}.get(kept, f"all {kept} limits are kept")


def _listed(measures: list[Measure]) -> str:
    named = []
    for measure in measures[:_NAMED]:
        asked = (measure.limit or "").replace(">=", "at least").replace("<=", "at most")
        value = "not measured" if measure.value is None else f"{measure.value:.3g}"
        name = title(measure.name)
        named.append(f"{name if name.startswith('Fr') else name[0].lower() + name[1:]} ({value}, asked: {asked})")
    if len(measures) > _NAMED:
        named.append(f"{len(measures) - _NAMED} more")
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
