"""Steps, Kubeflow wrappers, DVC stages and params.yaml say the same: names, paths, parameters and edges."""

import inspect
import shlex
import typing
from importlib import import_module
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml
from quick import REPOSITORY

from components.step import STEPS, params_type, read_sections
from pipelines import steps as wrappers
from pipelines.compile import compile_pipeline

Edge = tuple[str, str, str, str]
"""Producing step, its output, consuming step, its input."""

LOCAL_ONLY = {("train", "state")}
"""Paths that the other drivers hand over in their own way (an environment variable in a pod)."""

CHOICES = {("publish_model", "unpromoted")}
"""Arguments that are no paths: a pipeline's branch does what a stage's choice does."""

AS_TEXT = {("find_champion", "champion"), ("evaluate", "champion")}
"""Small files that a wrapper hands on as text: Kubeflow caches by the value of a parameter, not of a file."""

UI_ONLY = {("export_model", "card")}
"""Outputs of a wrapper that repeat a part of another one, for Kubeflow's UI to show."""


def step_function(name: str) -> Any:
    return getattr(import_module(f"components.{name}"), name)


def step_paths(name: str) -> set[str]:
    hints = typing.get_type_hints(step_function(name))
    paths = {key for key, hint in hints.items() if key != "return" and Path in (hint, *typing.get_args(hint))}
    return paths - {key for step, key in LOCAL_ONLY if step == name}


def step_facts(name: str) -> set[str]:
    hints = typing.get_type_hints(step_function(name))
    return {key for key, hint in hints.items() if key != "return" and hint is str}


def wrapper_artifacts(name: str) -> tuple[set[str], set[str]]:
    """Inputs and outputs."""
    found: dict[str, set[str]] = {"input": set(), "output": set()}
    for key, hint in typing.get_type_hints(getattr(wrappers, name), include_extras=True).items():
        for mark in typing.get_args(hint)[1:]:
            for kind, keys in found.items():
                if isinstance(mark, type) and mark.__name__ == f"{kind.capitalize()}Annotation":
                    keys.add(key)
    return found["input"], found["output"] - {key for step, key in UI_ONLY if step == name}


def stages() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    return loaded


def stage_flags(name: str) -> dict[str, str]:
    """Argument -> path or value, from the stage's command."""
    python, dash_m, module, *rest = shlex.split(stages()[name]["cmd"])
    assert (python, dash_m, module) == ("python", "-m", f"components.{name}")
    return {
        flag.removeprefix("--").replace("-", "_"): value for flag, value in zip(rest[::2], rest[1::2], strict=True)
    }


def stage_outputs(name: str) -> set[str]:
    return {*stages()[name].get("outs", []), *stages()[name].get("metrics", [])}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("package") / "pipeline.yaml"
    compile_pipeline(path, "troika-train:test", read_sections(REPOSITORY / "params.yaml"))
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def pipeline_edges(package: dict[str, Any]) -> set[Edge]:
    edges: set[Edge] = set()

    def walk(dag: dict[str, Any], outside: dict[str, tuple[str, str]]) -> None:
        for task in dag["tasks"].values():
            component = package["components"][task["componentRef"]["name"]]
            sources: dict[str, tuple[str, str]] = {}
            for key, source in task.get("inputs", {}).get("artifacts", {}).items():
                if "taskOutputArtifact" in source:
                    made = source["taskOutputArtifact"]
                    sources[key] = (made["producerTask"].replace("-", "_"), made["outputArtifactKey"])
                else:
                    sources[key] = outside[source["componentInputArtifact"]]
            if "dag" in component:
                walk(component["dag"], sources)
            else:
                consumer = task["taskInfo"]["name"].replace("-", "_")
                edges.update((*source, consumer, key) for key, source in sources.items())
                texts = {key for step, key in AS_TEXT if step == consumer}
                for key in texts & set(task.get("inputs", {}).get("parameters", {})):
                    made = task["inputs"]["parameters"][key]["taskOutputParameter"]
                    # What a step returns as text is the file of that name.
                    edges.add((made["producerTask"].replace("-", "_"), key, consumer, key))

    walk(package["root"]["dag"], {})
    return edges


def stage_edges() -> set[Edge]:
    made = {
        path: (name, flag)
        for name in stages()
        for flag, path in stage_flags(name).items()
        if path in stage_outputs(name)
    }
    return {
        (*made[path], name, flag)
        for name in stages()
        for flag, path in stage_flags(name).items()
        if path in made and made[path][0] != name
    }


def test_every_driver_has_the_same_steps(package: dict[str, Any]) -> None:
    executors = {name.removeprefix("exec-").replace("-", "_") for name in package["deploymentSpec"]["executors"]}
    modules = {path.stem for path in (REPOSITORY / "components").glob("*.py")} - {"__init__", "step"}
    assert set(STEPS) == executors == set(stages()) == modules


def test_every_driver_has_the_same_edges(package: dict[str, Any]) -> None:
    assert pipeline_edges(package) == stage_edges()
    assert ("prepare_data", "dataset", "train", "dataset") in stage_edges()
    assert ("evaluate", "verdict", "publish_model", "verdict") in stage_edges()
    assert ("find_champion", "champion", "evaluate", "champion") in stage_edges()


@pytest.mark.parametrize("name", STEPS)
def test_a_wrapper_takes_and_gives_what_its_step_does(name: str) -> None:
    inputs, outputs = wrapper_artifacts(name)
    text = {key for step, key in AS_TEXT if step == name}
    assert inputs | outputs == step_paths(name) - text
    assert outputs == {flag for flag, path in stage_flags(name).items() if path in stage_outputs(name)} - text
    facts = step_facts(name)
    assert facts <= set(inspect.signature(getattr(wrappers, name)).parameters)


@pytest.mark.parametrize("name", STEPS)
def test_a_stage_gives_every_path_of_its_step_and_depends_on_what_it_reads(name: str) -> None:
    flags = stage_flags(name)
    local = {key for step, key in LOCAL_ONLY if step == name}
    assert set(flags) == step_paths(name) | local | {key for step, key in CHOICES if step == name}
    inputs, _ = wrapper_artifacts(name)
    assert {flags[key] for key in inputs} <= set(stages()[name]["deps"])
    assert f"components/{name}.py" in stages()[name]["deps"]
    assert all(
        (REPOSITORY / path).exists() for path in stages()[name]["deps"] if not path.startswith("artifacts/")
    )


@pytest.mark.parametrize("name", STEPS)
def test_parameters_are_the_same_everywhere(name: str) -> None:
    sections = read_sections(REPOSITORY / "params.yaml")
    has_parameters = params_type(step_function(name)) is not None
    arguments = set(inspect.signature(getattr(wrappers, name)).parameters)
    assert has_parameters == (name in sections) == ({"params", "overrides"} <= arguments)
    assert stages()[name].get("params", []) == ([name] if has_parameters else [])


def test_the_edge_test_can_fail(package: dict[str, Any]) -> None:
    task = package["root"]["dag"]["tasks"]["evaluate"]["inputs"]["artifacts"]["bundle"]["taskOutputArtifact"]
    task["producerTask"], before = "train", task["producerTask"]
    try:
        assert pipeline_edges(package) != stage_edges()
    finally:
        task["producerTask"] = before


PLUMBING = {"components.step", "troika.credentials", "troika.errors", "troika.folders", "troika.params"}
"""Code that every step uses and that shapes no result."""


@pytest.mark.parametrize("name", STEPS)
def test_a_stage_depends_on_all_code_that_its_step_imports(name: str) -> None:
    imported = grimp.build_graph("troika", "components").find_upstream_modules(f"components.{name}")
    if "troika.models.registry" in imported:  # imports by name, which no static reading sees
        imported |= {
            "troika.models.gan.pytorch_gan",
            "troika.models.gan.tensorflow_gan",
            "troika.tensorflow_onnx",
            "troika.tensorflow_runtime",
            "troika.threads",
            "troika.torch_onnx",
            "troika.torch_threads",
        }
    dependencies = [path.removesuffix(".py").replace("/", ".") for path in stages()[name]["deps"]]
    uncovered = {
        module
        for module in imported
        - PLUMBING
        - ({"troika"} if "troika/__init__.py" in stages()[name]["deps"] else set())
        if not any(module == known or module.startswith(f"{known}.") for known in dependencies)
    }
    if name == "train":
        uncovered -= {"troika.torch_onnx", "troika.tensorflow_onnx"}  # of the export only
    assert not uncovered
