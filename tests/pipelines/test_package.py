"""The package that is uploaded to Kubeflow: a run form that can be used, and nothing cached that must not be."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from quick import REPOSITORY

from benchmarks.pods import count_pods
from components.step import STEPS, read_sections
from pipelines.compile import compile_pipeline
from troika.params import merge


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("package") / "deep" / "pipeline.yaml"
    compile_pipeline(path, "registry.test/troika-train@sha256:00", read_sections(REPOSITORY / "params.yaml"))
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def form(package: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = package["root"]["inputDefinitions"]["parameters"]
    return fields


def tasks(dag: dict[str, Any], package: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for task in dag["tasks"].values():
        component = package["components"][task["componentRef"]["name"]]
        found.update(tasks(component["dag"], package) if "dag" in component else {task["taskInfo"]["name"]: task})
    return found


def test_every_field_of_the_form_has_a_type_and_a_description(package: dict[str, Any]) -> None:
    for name, field in form(package).items():
        assert field["parameterType"] in {"STRING", "NUMBER_INTEGER", "NUMBER_DOUBLE", "STRUCT"}, name
        assert len(field.get("description", "")) > 20, name
    assert form(package)["steps"]["parameterType"] == "NUMBER_INTEGER"
    assert form(package)["frechet_distance_margin"]["parameterType"] == "NUMBER_DOUBLE"


def test_the_forms_defaults_are_those_of_the_parameter_file(package: dict[str, Any]) -> None:
    sections = read_sections(REPOSITORY / "params.yaml")
    gate = sections["evaluate"]
    assert {name: field["defaultValue"] for name, field in form(package).items() if "defaultValue" in field} == {
        "source": sections["prepare_data"]["source"],
        "data_path": sections["prepare_data"]["path"],
        "dvc_repo": sections["prepare_data"]["dvc"]["repo"],
        "dvc_rev": sections["prepare_data"]["dvc"]["rev"],
        "data_version": sections["prepare_data"]["version"],
        "framework": sections["train"]["framework"],
        "preset": sections["train"]["preset"],
        "steps": sections["train"]["steps"],
        "seed": sections["train"]["seed"],
        "model_name": sections["export_model"]["model_name"],
        "champion_must": gate["champion"]["must"],
        "label_agreement_margin": gate["limits"]["label_agreement"]["below_floor"],
        "frechet_distance_margin": gate["limits"]["frechet_distance"]["above_floor"],
        "overrides": {},
    }


def test_a_limit_of_another_kind_is_not_overruled_by_the_form(tmp_path: Path) -> None:
    limits = {"frechet_distance": {"above_floor": None, "at_most": 1.0}}
    sections = merge(read_sections(REPOSITORY / "params.yaml"), {"evaluate": {"limits": limits}})
    compile_pipeline(tmp_path / "pipeline.yaml", "registry.test/troika-train@sha256:00", sections)
    fields = form(yaml.safe_load((tmp_path / "pipeline.yaml").read_text()))
    assert fields["frechet_distance_margin"]["defaultValue"] == -1
    assert fields["label_agreement_margin"]["defaultValue"] > 0


def test_facts_of_the_environment_must_be_given(package: dict[str, Any]) -> None:
    required = {name for name, field in form(package).items() if not field.get("isOptional")}
    assert required == {"store", "release_remote", "environment"}


def test_pure_steps_are_cached_and_those_that_act_outside_are_not(package: dict[str, Any]) -> None:
    cached = {
        name
        for name, task in tasks(package["root"]["dag"], package).items()
        if task["cachingOptions"].get("enableCache")
    }
    assert cached == {"prepare-data", "train", "export-model", "train-evaluator", "evaluate"}


def test_every_step_runs_in_the_given_image_and_installs_nothing(package: dict[str, Any]) -> None:
    for executor in package["deploymentSpec"]["executors"].values():
        assert executor["container"]["image"] == "registry.test/troika-train@sha256:00"
        assert "pip install" not in " ".join(executor["container"]["command"])


def test_the_pods_of_a_run_are_counted_as_kubeflow_starts_them(package: dict[str, Any]) -> None:
    """A run of Kubeflow Pipelines 2.17 had these: a driver for the whole, for the condition and for each step."""
    counted = count_pods(package)
    assert (counted.drivers, sum(counted.images.values())) == (2 + len(STEPS), len(STEPS))


def test_publishing_depends_on_the_verdict(package: dict[str, Any]) -> None:
    condition = package["root"]["dag"]["tasks"]["condition-1"]
    assert condition["triggerPolicy"]["condition"].endswith("== 'promote'")
    inner = package["components"]["comp-condition-1"]["dag"]["tasks"]
    assert set(inner) == {"publish-model", "release-model"}


def test_the_same_input_gives_the_same_package(tmp_path: Path) -> None:
    sections = read_sections(REPOSITORY / "params.yaml")
    for name in ("a.yaml", "b.yaml"):
        compile_pipeline(tmp_path / name, "troika-train:test", sections)
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()
