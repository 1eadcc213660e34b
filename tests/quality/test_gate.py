"""The gate opens only when every limit was seen to be kept by the whole interval."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troika.errors import ParameterError
from troika.quality.gate import Judgement, Limit, Measure, decide, widen_for_looks

AT_LEAST = Limit(at_least=0.9)
AT_MOST = Limit(at_most=2.0)


def judge_one(measure: Measure, limit: Limit) -> Judgement:
    return decide([measure], {measure.name: limit})


@pytest.mark.parametrize(
    ("limit", "low", "high", "decision"),
    [
        (AT_LEAST, 0.91, 0.95, "promote"),
        (AT_LEAST, 0.90, 0.95, "promote"),
        (AT_LEAST, 0.89, 0.95, "inconclusive"),
        (AT_LEAST, 0.85, 0.90, "inconclusive"),
        (AT_LEAST, 0.85, 0.89, "reject"),
        (AT_MOST, 1.0, 1.9, "promote"),
        (AT_MOST, 1.0, 2.0, "promote"),
        (AT_MOST, 1.0, 2.1, "inconclusive"),
        (AT_MOST, 2.0, 2.1, "inconclusive"),
        (AT_MOST, 2.1, 2.2, "reject"),
    ],
)
def test_the_whole_interval_must_keep_the_limit(limit: Limit, low: float, high: float, decision: str) -> None:
    found = judge_one(Measure(name="figure", value=(low + high) / 2, low=low, high=high), limit)
    assert found.decision == decision
    assert len(found.reasons) == (decision != "promote")
    (measure,) = found.measures
    assert measure.limit == {AT_LEAST: ">= 0.9", AT_MOST: "<= 2"}[limit]
    assert (measure.at_least, measure.at_most) == (limit.at_least, limit.at_most)
    assert measure.result == {"promote": "passed", "reject": "failed", "inconclusive": "undecided"}[decision]


def test_reasons_name_figure_interval_and_limit() -> None:
    found = judge_one(Measure(name="distance", value=3.0, low=2.5, high=3.5), AT_MOST)
    assert found.reasons == ["distance = 3 [2.5, 3.5] is outside the limit <= 2"]
    found = judge_one(Measure(name="distance", value=2.0, low=1.5, high=2.5), AT_MOST)
    assert found.reasons == ["distance = 2 [1.5, 2.5] is too close to call against the limit <= 2"]
    found = judge_one(Measure(name="agreement", value=0.5), AT_LEAST)
    assert found.reasons == ["agreement = 0.5 is outside the limit >= 0.9"]


def test_one_failure_outweighs_everything_else() -> None:
    measures = [
        Measure(name="good", value=1.0, low=0.95, high=1.0),
        Measure(name="open", value=0.9, low=0.8, high=1.0),
        Measure(name="bad", value=0.1, low=0.1, high=0.1),
    ]
    limits = dict.fromkeys(("good", "open", "bad"), AT_LEAST)
    assert decide(measures, limits).decision == "reject"
    assert decide(measures[:2], {"good": AT_LEAST, "open": AT_LEAST}).decision == "inconclusive"
    assert decide(measures[:1], {"good": AT_LEAST}).decision == "promote"


def test_what_was_not_measured_fails() -> None:
    found = decide([], {"figure": AT_MOST})
    assert found.decision == "reject"
    assert found.reasons == ["figure was not measured, but its limit is <= 2"]
    found = judge_one(Measure(name="figure", value=None, note="broke down"), AT_MOST)
    assert found.decision == "reject"
    assert found.reasons == ["figure broke down, but its limit is <= 2"]


@pytest.mark.parametrize("limit", [AT_LEAST, AT_MOST])
@pytest.mark.parametrize(
    "figures",
    [
        {"value": math.nan},
        {"value": math.nan, "low": 1.0, "high": 1.0},
        {"value": 1.0, "low": math.nan, "high": 1.0},
        {"value": 1.0, "low": 1.0, "high": math.nan},
        {"value": math.nan, "low": math.nan, "high": math.nan},
        {"value": math.inf, "low": math.inf, "high": math.inf},
        {"value": -math.inf, "low": -math.inf, "high": -math.inf},
        {"value": 1.0, "low": 1.0, "high": math.inf},
        {"value": 1.0, "low": -math.inf, "high": 1.0},
        {"value": 1.0, "low": 1.5, "high": 1.0},
    ],
)
def test_what_is_not_finite_or_upside_down_fails(limit: Limit, figures: dict[str, float]) -> None:
    found = judge_one(Measure(name="figure", **figures), limit)
    assert found.decision == "reject"
    assert found.reasons[0].startswith("figure = ")


def test_what_does_not_apply_is_reported_and_stops_nothing() -> None:
    absent = Measure(name="label_agreement", value=None, note="does not apply: the model takes no label")
    found = judge_one(absent, AT_LEAST)
    assert found.decision == "promote"
    assert found.measures == [absent.model_copy(update={"limit": ">= 0.9", "at_least": 0.9, "result": "reported"})]


def test_figures_without_a_limit_are_reported_in_their_order() -> None:
    measures = [Measure(name=name, value=1.0) for name in ("c", "a", "b")]
    found = decide(measures, {"b": AT_LEAST, "z": AT_LEAST, "c": AT_LEAST})
    assert [measure.name for measure in found.measures] == ["c", "a", "b", "z"]
    assert [measure.result for measure in found.measures] == ["passed", "reported", "passed", "failed"]


def test_no_limit_at_all_judges_nothing() -> None:
    """So params.yaml must hold some; see test_steps_and_params.py."""
    assert decide([Measure(name="a", value=-1.0)], {}).decision == "promote"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "give exactly one of at_least, at_most, below_floor and above_floor"),
        ({"at_least": 0.1, "at_most": 0.9}, "give exactly one of at_least, at_most, below_floor and above_floor"),
        (
            {"at_most": 0.1, "above_floor": 0.1},
            "give exactly one of at_least, at_most, below_floor and above_floor",
        ),
        ({"at_least": None}, "give exactly one of at_least, at_most, below_floor and above_floor"),
        ({"below": 3.0}, "below: unknown key; known keys: at_least, at_most, below_floor, above_floor"),
        ({"below_floor": -0.1}, "below_floor: Input should be greater than or equal to 0"),
        ({"at_most": "2"}, "at_most: Input should be a valid number"),
        ({"at_most": math.nan}, "at_most: Input should be a finite number"),
        ({"at_most": math.inf}, "at_most: Input should be a finite number"),
        ({"at_least": -math.inf}, "at_least: Input should be a finite number"),
    ],
)
def test_a_limit_that_limits_nothing_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=r"^limits: x is not valid") as caught:
        Limit.parse(values, "limits: x")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "unit", "words", "value", "decision"),
    [
        (Limit(below_floor=0.1), 1.0, ">= 0.8", 0.81, "promote"),
        (Limit(below_floor=0.1), 1.0, ">= 0.8", 0.79, "reject"),
        (Limit(above_floor=0.1), 1.0, "<= 1", 0.99, "promote"),
        (Limit(above_floor=0.1), 1.0, "<= 1", 1.01, "reject"),
        # Of a Fréchet distance the unit is the total variance of the real features.
        (Limit(above_floor=0.1), 20.0, "<= 2.9", 2.89, "promote"),
        (Limit(above_floor=0.1), 20.0, "<= 2.9", 2.91, "reject"),
    ],
)
def test_a_relative_limit_is_counted_from_the_figure_of_real_images(
    limit: Limit, unit: float, words: str, value: float, decision: str
) -> None:
    found = judge_one(Measure(name="figure", value=value, floor=0.9, unit=unit), limit)
    assert (found.decision, found.measures[0].limit) == (decision, words)


@pytest.mark.parametrize("floor", [None, math.nan, math.inf])
def test_a_relative_limit_without_a_figure_of_real_images_fails(floor: float | None) -> None:
    found = judge_one(Measure(name="figure", value=0.9, floor=floor), Limit(below_floor=0.1))
    assert found.decision == "reject"
    assert found.reasons == [
        "figure has no figure of real images to compare with, but its limit is below floor 0.1"
    ]


def test_an_undecided_figure_says_how_many_samples_would_decide() -> None:
    near = Measure(name="distance", value=1.9, low=1.7, high=2.1)
    (measure,) = decide([near], {"distance": AT_MOST}, samples=1000).measures
    # The half-width of 0.2 must become the gap of 0.1: four times the samples.
    assert measure.samples_to_decide == 4000
    (reason,) = decide([near], {"distance": AT_MOST}, samples=1000).reasons
    assert reason.endswith("; about 4,000 samples would decide")
    assert decide([near], {"distance": AT_MOST}).measures[0].samples_to_decide is None
    on_it = near.model_copy(update={"value": 2.0, "low": 1.9})
    assert decide([on_it], {"distance": AT_MOST}, samples=1000).measures[0].samples_to_decide is None


def test_looking_more_than_once_asks_for_more_certainty() -> None:
    assert widen_for_looks(1, 10) == 1
    assert 1 < widen_for_looks(2, 10) < widen_for_looks(3, 10) < 1.5
    # Bonferroni: three looks at 95 % are held to 98.33 % each; quantiles of t with 9 degrees of freedom.
    assert widen_for_looks(3, 10) == pytest.approx(2.9333 / 2.2622, rel=1e-4)
    close = Measure(name="distance", value=1.8, low=1.62, high=1.98)
    assert decide([close], {"distance": AT_MOST}).decision == "promote"
    assert decide([close], {"distance": AT_MOST}, widen=1.3).decision == "inconclusive"
    far = Measure(name="distance", value=2.2, low=2.02, high=2.38)
    assert decide([far], {"distance": AT_MOST}).decision == "reject"
    assert decide([far], {"distance": AT_MOST}, widen=1.3).decision == "inconclusive"
    # The interval itself stays as it is.
    assert decide([close], {"distance": AT_MOST}, widen=1.3).measures[0].high == 1.98


Numbers = st.floats(-10, 10) | st.just(math.nan) | st.just(math.inf)
Measures = st.builds(
    lambda name, value, low, high: Measure(name=name, value=value, low=low, high=high),
    st.sampled_from("abc"),
    Numbers | st.none(),
    Numbers | st.none(),
    Numbers | st.none(),
)
SomeMeasures = st.lists(Measures, max_size=3, unique_by=lambda measure: measure.name)
Limits = st.dictionaries(
    st.sampled_from("abc"),
    st.floats(-10, 10).flatmap(lambda x: st.sampled_from([Limit(at_least=x), Limit(at_most=x)])),
    min_size=1,
)
RANK = {"reject": 0, "inconclusive": 1, "promote": 2}


def tightened(limit: Limit, by: float) -> Limit:
    if limit.at_least is not None:
        return Limit(at_least=limit.at_least + by)
    assert limit.at_most is not None
    return Limit(at_most=limit.at_most - by)


@given(SomeMeasures, Limits, st.floats(0, 20), st.data())
def test_a_tighter_limit_never_lets_more_through(
    measures: list[Measure], limits: dict[str, Limit], by: float, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(limits)))
    loose = decide(measures, limits)
    tight = decide(measures, limits | {name: tightened(limits[name], by)})
    assert RANK[tight.decision] <= RANK[loose.decision]


@given(SomeMeasures, Limits, Limits)
def test_a_further_limit_never_lets_more_through(
    measures: list[Measure], limits: dict[str, Limit], more: dict[str, Limit]
) -> None:
    assert RANK[decide(measures, more | limits).decision] <= RANK[decide(measures, limits).decision]


@given(SomeMeasures, Limits)
def test_promotion_means_that_every_limit_was_kept(measures: list[Measure], limits: dict[str, Limit]) -> None:
    found = decide(measures, limits)
    results = {measure.name: measure.result for measure in found.measures}
    assert (found.decision == "promote") == all(results[name] in ("passed", "reported") for name in limits)
    assert (found.decision == "promote") == (not found.reasons)
    for measure in found.measures:
        if measure.result == "passed":
            assert measure.value is not None
            assert math.isfinite(measure.value)
