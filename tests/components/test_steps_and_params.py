"""params.yaml and the steps fit together: a section for each step that has parameters, and every preset valid."""

from pathlib import Path
from typing import Any

import pytest
from quick import REPOSITORY
from tiny_steps import step_function

from components.evaluate import EvaluateParams
from components.step import STEPS, params_type, resolve_params
from troika.errors import ParameterError
from troika.models.registry import settings_class
from troika.params import read_params
from troika.quality.tally import NOTES

PARAMS = REPOSITORY / "params.yaml"


def sections() -> dict[str, dict[str, Any]]:
    return read_params(PARAMS)


def test_a_step_is_a_module_and_a_module_is_a_step() -> None:
    modules = {path.stem for path in (REPOSITORY / "components").glob("*.py")}
    assert modules - {"__init__", "step"} == set(STEPS)
    assert all(callable(step_function(name)) for name in STEPS)


def test_a_step_with_parameters_has_a_section_and_a_section_has_a_step() -> None:
    with_parameters = {name for name in STEPS if params_type(step_function(name)) is not None}
    assert set(sections()) == with_parameters


@pytest.mark.parametrize("name", sorted(sections()))
def test_a_section_is_valid_and_holds_every_value(name: str) -> None:
    step = step_function(name)
    parsed = resolve_params(step, sections()[name], where="params.yaml")
    kind = params_type(step)
    assert kind is not None
    assert set(sections()[name]) == set(kind.model_fields)
    assert all(field.is_required() for field in kind.model_fields.values()), "a default stands outside params.yaml"
    assert parsed == kind.parse(sections()[name], "params.yaml")


@pytest.mark.parametrize("preset", sorted(sections()["train"]["presets"]))
def test_a_preset_is_valid(preset: str) -> None:
    train = sections()["train"]
    settings = settings_class(train["family"]).parse(train["presets"][preset], f"presets.{preset}")
    assert resolve_params(step_function("train"), train, {"preset": preset}).settings() == settings


def test_the_champion_is_looked_for_where_releases_are_made() -> None:
    assert sections()["find_champion"]["branch"] == sections()["release_model"]["branch"]


def test_limits_are_on_figures_that_are_measured(tmp_path: Path) -> None:
    """A limit under a misspelt name would reject every model; no limit would promote every one."""
    limits = EvaluateParams.parse(sections()["evaluate"], "params.yaml").limits
    assert limits
    assert set(limits) <= set(NOTES)
    assert {"label_agreement", "frechet_distance", "class_balance"} <= set(limits)


def test_parity_can_fail() -> None:
    train = sections()["train"]
    train["presets"]["r3gan"]["colour"] = "red"
    with pytest.raises(ParameterError, match=r"presets\.r3gan is not valid:\n.*colour: unknown key"):
        resolve_params(step_function("train"), train)
