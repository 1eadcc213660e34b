"""Parameters are strict: whatever is unknown, missing or of another type is named, and nothing is guessed."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from troika.errors import ParameterError
from troika.params import Params, merge, parse_assignments, read_params


class Network(Params):
    width: int
    rate: float


class Example(Params):
    steps: int = Field(gt=0)
    rate: float
    name: str
    network: Network

    @model_validator(mode="after")
    def _check(self) -> "Example":
        if self.name == "none":
            raise ValueError("name: none is not a name")
        return self


GOOD: dict[str, Any] = {"steps": 3, "rate": 0.5, "name": "x", "network": {"width": 4, "rate": 1.0}}


def refusal(changes: dict[str, Any], *, without: str = "") -> str:
    values = {key: value for key, value in merge(GOOD, changes).items() if key != without}
    with pytest.raises(ParameterError) as caught:
        Example.parse(values, "params.yaml: example")
    message = str(caught.value)
    assert message.startswith("params.yaml: example is not valid:\n")
    return message


def test_good_values_become_an_unchangeable_object() -> None:
    parsed = Example.parse(GOOD, "here")
    assert parsed.network.width == 4
    assert parsed.model_dump() == GOOD
    with pytest.raises(ValidationError, match="frozen"):
        parsed.steps = 4


def test_a_whole_number_is_a_number() -> None:
    assert Example.parse(GOOD | {"rate": 1}, "here").rate == 1.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step": 3}, "- step: unknown key; known keys: steps, rate, name, network"),
        ({"network": {"widht": 3}}, "- network.widht: unknown key"),
        ({"steps": "3"}, "- steps: Input should be a valid integer (got '3')"),
        ({"steps": 3.5}, "- steps: Input should be a valid integer (got 3.5)"),
        ({"steps": True}, "- steps: Input should be a valid integer (got True)"),
        ({"steps": None}, "- steps: Input should be a valid integer (got None)"),
        ({"steps": 0}, "- steps: Input should be greater than 0 (got 0)"),
        ({"rate": "fast"}, "- rate: Input should be a valid number (got 'fast')"),
        ({"rate": "4e-3"}, "(got '4e-3'); YAML takes 1e-3 for text, write 1.0e-3"),
        ({"rate": float("nan")}, "- rate: Input should be a finite number (got nan)"),
        ({"rate": float("inf")}, "- rate: Input should be a finite number (got inf)"),
        ({"name": 7}, "- name: Input should be a valid string (got 7)"),
        ({"name": "none"}, "name: none is not a name"),
        ({"network": 3}, "- network: "),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(changes: dict[str, Any], words: str) -> None:
    assert words in refusal(changes)


def test_a_missing_value_has_no_hidden_default() -> None:
    assert "- rate: missing, and there is no hidden default" in refusal({}, without="rate")


def test_all_problems_are_told_at_once() -> None:
    message = refusal({"steps": "3", "colour": 1}, without="name")
    assert all(f"  - {key}: " in message for key in ("steps", "colour", "name"))


def test_a_file_of_sections_is_read(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train:\n  steps: 3  # short\nevaluate: {rate: 1.0e-3}\n")
    assert read_params(tmp_path / "params.yaml") == {"train": {"steps": 3}, "evaluate": {"rate": 0.001}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"train: [1", "is not valid YAML"),
        (b"train: \xff", "is not valid YAML"),
        (b"", "must hold one section of `key: value` lines per step"),
        (b"- train", "must hold one section"),
        (b"train: 3", "must hold one section"),
        (b"train: {}\nevaluate: {}\ntrain: {}\n", "'train' stands twice"),
        (b"train: {steps: 1, steps: 2}", "'steps' stands twice"),
        (b"train: {[1]: 2}", "is not valid YAML"),
        (b"train: &a {x: *a}", "holds itself by an alias"),
        (b"train: " + b"[" * 2000, "nested too deeply"),
        (b"train: {day: 2026-13-01}", "is not valid YAML"),
        (b"train: !!python/object/apply:os.getcwd []", "is not valid YAML"),
    ],
)
def test_a_file_of_something_else_is_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ParameterError, match=str(path)) as caught:
        read_params(path)
    assert words in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"none\.yaml does not exist; give --params FILE"):
        read_params(tmp_path / "none.yaml")
    with pytest.raises(ParameterError, match=f"{tmp_path} cannot be read: Is a directory"):
        read_params(tmp_path)


def test_assignments_are_nested_yaml() -> None:
    assert parse_assignments([]) == {}
    assert parse_assignments(
        ["steps=100", "presets.small.rate=1.0e-3", "presets.small.name=a=b", "presets.small.widths=[1, 2]", "x="]
    ) == {"steps": 100, "presets": {"small": {"rate": 0.001, "name": "a=b", "widths": [1, 2]}}, "x": None}


def test_the_last_assignment_of_a_key_counts() -> None:
    assert parse_assignments(["a=1", "b.c=1", "a=2", "b.c=3"]) == {"a": 2, "b": {"c": 3}}


@pytest.mark.parametrize("assignment", ["steps", "=3", " =3", "", "steps=[1", "steps=\x00"])
def test_an_assignment_that_is_none_is_shown(assignment: str) -> None:
    with pytest.raises(ParameterError, match="--set ") as caught:
        parse_assignments(["good=1", assignment])
    assert repr(assignment) in str(caught.value)


Nested = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans() | st.none() | st.floats(allow_nan=False),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
)
Groups = st.dictionaries(st.sampled_from("abcd"), Nested, max_size=4)


@given(Groups, Groups)
def test_merging_keeps_what_is_not_changed_and_alters_no_argument(values: Any, changes: Any) -> None:
    before = (repr(values), repr(changes))
    merged = merge(values, changes)
    assert (repr(values), repr(changes)) == before
    assert merged.keys() == values.keys() | changes.keys()
    for key in values.keys() - changes.keys():
        assert merged[key] == values[key]
    for key, change in changes.items():
        old = values.get(key)
        if not isinstance(change, dict):
            assert merged[key] == change
        elif isinstance(old, dict):
            assert merged[key] == merge(old, change)
    assert merge(merged, changes) == merged


def test_whole_numbers_that_arrive_as_floats_become_integers_again() -> None:
    merged = merge({"steps": 3, "rate": 0.5}, {"steps": 4.0, "rate": 0.25, "network": {"widths": [8.0, 0.5]}})
    assert repr(merged) == "{'steps': 4, 'rate': 0.25, 'network': {'widths': [8, 0.5]}}"
