"""verdict.json is what its schema says, and its sentence names the reason that counts."""

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from patterns import LIMITS, PatternGenerator, judged_patterns, pattern_side, verdict_on
from quick import REPOSITORY

from troika.quality.challenge import Challenge
from troika.quality.gate import Measure
from troika.quality.reference import expected_ranges, limits_of
from troika.quality.self_test import SelfTestRow
from troika.quality.verdict import Champion, Verdict, schema_text, verdict_schema

ROW = SelfTestRow(name="noise", decision="reject", failed=["recall"], expected=["recall"], reason="recall is bad")


@pytest.fixture(scope="module")
def verdict() -> Verdict:
    real = pattern_side()
    judged = judged_patterns(real, PatternGenerator(real, noise=90), PatternGenerator(real))
    return verdict_on(judged, self_test=[ROW])


def made_up(**changes: Any) -> Verdict:
    """A verdict without figures."""
    nothing = {name: "" for name in Verdict.model_fields if Verdict.model_fields[name].annotation is str}
    lists: dict[str, Any] = {name: [] for name in ("reasons", "measures", "champion_measures", "self_test")}
    values = {"decision": "promote", "samples": 0, "batches": 0, "champion": None, "challenge": None, "params": {}}
    return Verdict.model_validate({**nothing, **lists, **values, **changes})


def test_the_committed_schema_is_that_of_the_code() -> None:
    committed = (REPOSITORY / "docs" / "verdict.schema.json").read_text(encoding="utf-8")
    remedy = "write it anew: python -m troika.quality.verdict > docs/verdict.schema.json"
    assert committed == schema_text(), remedy


def test_a_verdict_keeps_its_schema(verdict: Verdict) -> None:
    schema = verdict_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    content = json.loads(verdict.to_json())
    jsonschema.validate(content, schema)
    assert Verdict.model_validate_json(verdict.to_json()) == verdict
    for broken in (
        {**content, "decision": "perhaps"},
        {**content, "samples": -1},
        {**content, "measures": [{"value": 1.0}]},
        {name: value for name, value in content.items() if name != "bundle_digest"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)


def test_all_fields_are_described() -> None:
    schema = verdict_schema()
    for kind in (schema, *schema["$defs"].values()):
        for name, field in kind.get("properties", {}).items():
            assert field.get("description"), f"{kind['title']}.{name}"
    text = (REPOSITORY / "docs" / "verdict.md").read_text(encoding="utf-8")
    missing = [name for name in schema["properties"] if f"`{name}`" not in text]
    assert not missing


def test_all_figures_are_explained() -> None:
    from troika.quality.tally import NOTES

    text = (REPOSITORY / "docs" / "verdict.md").read_text(encoding="utf-8")
    assert [name for name in NOTES if f"`{name}`" not in text] == []


def test_what_json_lacks_becomes_null() -> None:
    measure = Measure(name="contrast_ratio", value=np.inf, low=-np.inf, high=np.nan)
    (read,) = json.loads(made_up(measures=[measure]).to_json())["measures"]
    assert [read[name] for name in ("value", "low", "high")] == [None, None, None]


def test_who_reads_verdicts_finds_what_they_look_for(verdict: Verdict) -> None:
    content = json.loads(verdict.to_json())
    assert set(limits_of(content)) == set(LIMITS)
    (recall,) = [measure for measure in verdict.measures if measure.name == "recall"]
    assert limits_of(content)["recall"] == ("at_least", recall.at_least)
    assert content["batches"] == 2
    assert content["samples"] == 200
    assert (
        expected_ranges(content)["kernel_distance"]
        != expected_ranges({**content, "batches": 9})["kernel_distance"]
    )


def bad(name: str, value: float | None, limit: str, result: str = "failed", **more: Any) -> Measure:
    return Measure(name=name, value=value, limit=limit, result=result, **more)  # type: ignore[arg-type]


def challenge_of(decision: str, reason: str) -> Challenge:
    return Challenge(decision=decision, reason=reason, ratio=0.9, low=0.8, high=1.0, needed=0.7)  # type: ignore[arg-type]


GOOD = bad("recall", 0.9, ">= 0.7", "passed")
CHAMPION = Champion(model="digits", digest=f"sha256:{'0' * 64}", version=3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"measures": [GOOD]},
            "Promoted: the one limit is kept; no champion is released that it would have to beat.",
        ),
        (
            {"measures": [GOOD], "champion": CHAMPION, "champion_note": "this is the champion"},
            "Promoted: the one limit is kept; this is the champion.",
        ),
        (
            {"measures": [GOOD], "champion": CHAMPION, "challenge": challenge_of("promote", "30% nearer")},
            "Promoted: the one limit is kept, and the model is 30% nearer.",
        ),
        (
            {"decision": "reject", "measures": [GOOD, bad("precision", 0.61, ">= 0.87")]},
            "Rejected: 1 of 2 limits is broken: precision (0.61, asked: at least 0.87).",
        ),
        (
            {
                "decision": "reject",
                "measures": [bad("frechet_distance", 9, "<= 2"), bad("coverage", None, ">= 0.5")],
            },
            "Rejected: 2 of 2 limits are broken: Fréchet distance (9, asked: at most 2) and "
            "coverage (not measured, asked: at least 0.5).",
        ),
        (
            {"decision": "reject", "measures": [bad(f"figure_{n}", n, "<= 0") for n in range(1, 6)]},
            "Rejected: 5 of 5 limits are broken: figure 1 (1, asked: at most 0), figure 2 (2, asked: at most 0), "
            "figure 3 (3, asked: at most 0) and 2 more.",
        ),
        (
            {
                "decision": "reject",
                "measures": [GOOD],
                "challenge": challenge_of("reject", "5% farther: no better"),
            },
            "Rejected: the one limit is kept, but the model is 5% farther: no better.",
        ),
        ({"decision": "reject", "reasons": ["the images are NaN"]}, "Rejected: the images are NaN."),
        (
            {
                "decision": "inconclusive",
                "measures": [bad("recall", 0.71, ">= 0.7", "undecided", samples_to_decide=123456)],
            },
            "Inconclusive: too close to call: recall (0.71, asked: at least 0.7); "
            "about 123,456 samples would decide.",
        ),
        (
            {
                "decision": "inconclusive",
                "measures": [GOOD],
                "challenge": challenge_of("inconclusive", "5% nearer, but within the spread"),
            },
            "Inconclusive: the one limit is kept; the model is 5% nearer, but within the spread.",
        ),
    ],
)
def test_one_sentence_says_what_and_why(changes: dict[str, Any], sentence: str) -> None:
    assert made_up(**changes).headline == sentence
