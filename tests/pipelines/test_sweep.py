"""A sweep: its trials, its package, and a whole one through KFP's local runner."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from quick import REPOSITORY, plain_environment, quick_sections

from components.step import read_sections
from pipelines.cluster import read_cluster
from pipelines.sweep import Sweep, compile_sweep, read_sweep
from troika.errors import ParameterError
from troika.quality.comparison import best_trial, write_comparison
from troika.releases.pointer import read_release

SPACE: dict[str, Any] = {
    "algorithm": "grid",
    "objective": {"metric": "frechet_distance", "goal": "minimize"},
    "parameters": {
        "train.seed": {"type": "categorical", "values": [0, 1]},
        "train.steps": {"type": "int", "values": [1, 20]},
    },
}
RANDOM: dict[str, Any] = {
    **SPACE,
    "algorithm": "random",
    "trials": 20,
    "parameters": {
        "train.presets.r3gan.learning_rate_start": {"type": "double", "min": 1e-4, "max": 1e-2, "log": True},
        "train.steps": {"type": "int", "min": 5, "max": 7},
    },
}


def sweep(values: dict[str, Any]) -> Sweep:
    return Sweep.parse(values, "test")


def test_a_grid_has_every_combination_once() -> None:
    points = [point["train"] for point in sweep(SPACE).points()]
    assert sorted((point["seed"], point["steps"]) for point in points) == [(0, 1), (0, 20), (1, 1), (1, 20)]


def test_a_random_search_is_within_its_ranges_and_can_be_repeated() -> None:
    points = sweep(RANDOM).points()
    assert points == sweep(RANDOM).points() != sweep({**RANDOM, "seed": 1}).points()
    rates = [point["train"]["presets"]["r3gan"]["learning_rate_start"] for point in points]
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert 4 <= sum(rate < 1e-3 for rate in rates) <= 16  # evenly on a logarithmic scale
    assert {point["train"]["steps"] for point in points} == {5, 6, 7}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 3}, "a grid has as many"),
        ({"algorithm": "random"}, "needs a number of trials"),
        ({"parameters": {}}, "parameters"),
        ({"parameters": {"train.seed": {"type": "int", "min": 0, "max": 2}}}, "train.seed: a grid needs values"),
        ({"parameters": {"train.seed": {"type": "int", "min": 2, "max": 1}}}, "min below a max"),
        ({"parameters": {"train.seed": {"type": "categorical", "min": 1, "max": 2}}}, "give values"),
        ({"parameters": {"train.x": {"type": "double", "min": 0, "max": 1, "log": True}}}, "min above 0"),
        ({"objective": {"metric": "a", "goal": "best"}}, "goal"),
    ],
)
def test_a_wrong_sweep_names_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        sweep({**SPACE, **changes})


@pytest.mark.parametrize(
    "parameters",
    [
        {"train.stepz": {"type": "int", "values": [1]}},
        {"train.steps": {"type": "int", "values": [-1]}},
        {"tarin.steps": {"type": "int", "values": [1]}},
    ],
)
def test_a_trial_that_could_not_run_is_refused_before_anything_runs(
    parameters: dict[str, Any], tmp_path: Path
) -> None:
    sections = read_sections(REPOSITORY / "params.yaml")
    with pytest.raises(ParameterError, match=r"step[sz]|tarin"):
        compile_sweep(tmp_path / "p.yaml", "x:1", sections, sweep({**SPACE, "parameters": parameters}))
    assert not (tmp_path / "p.yaml").exists()


def test_the_example_compiles_with_limits_on_every_pod(tmp_path: Path) -> None:
    sections, cluster = (
        read_sections(REPOSITORY / "params.yaml"),
        read_cluster(REPOSITORY / "pipelines/cluster.yaml"),
    )
    example = read_sweep(REPOSITORY / "pipelines" / "sweep.yaml")
    assert compile_sweep(tmp_path / "p.yaml", "x:1", sections, example, cluster) == 8
    graph, platform = yaml.safe_load_all((tmp_path / "p.yaml").read_text())
    executors = graph["deploymentSpec"]["executors"]
    assert {"exec-summarise", "exec-compare", "exec-train", "exec-train-2"} <= set(executors)
    for name, executor in executors.items():
        assert "resourceMemoryLimit" in executor["container"]["resources"], name
        assert ("accelerator" in executor["container"]["resources"]) == (name in {"exec-train", "exec-train-2"}), (
            name
        )
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(settings) == set(executors)
    loop = next(task for task in graph["root"]["dag"]["tasks"].values() if "parameterIterator" in task)
    assert loop["iteratorPolicy"]["parallelismLimit"] == 2


def trial(value: float | None, decision: str = "reject") -> dict[str, Any]:
    metrics = {} if value is None else {"frechet_distance": value}
    return {"point": {"train": {"steps": 1}}, "decision": decision, "metrics": metrics}


def test_the_best_is_the_best_of_the_promoted_if_there_are_any() -> None:
    trials = [trial(1.0), trial(3.0, "promote"), trial(2.0, "promote"), trial(None), trial(float("nan"))]
    assert best_trial(trials, "frechet_distance", "minimize") == 2
    assert best_trial(trials, "frechet_distance", "maximize") == 1
    assert best_trial(trials[:1], "frechet_distance", "minimize") == 0
    with pytest.raises(ParameterError, match="no trial has 'colour'; the metrics are frechet_distance"):
        best_trial(trials, "colour", "minimize")


def test_the_page_shows_every_trial_and_escapes_what_it_shows(tmp_path: Path) -> None:
    trials = [trial(1.0, "promote"), {**trial(None), "point": {"train": {"preset": "<b>"}}}]
    write_comparison(tmp_path / "page.html", trials, 0, "frechet_distance", "minimize")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<tr>") == 3
    assert "<b>" not in page
    assert "&lt;b&gt;" in page


def test_the_page_puts_what_is_promoted_first_and_writes_whole_numbers_whole(tmp_path: Path) -> None:
    def of(steps: float, value: float, decision: str) -> dict[str, Any]:
        metrics = {"frechet_distance": value, "promoted": float(decision == "promote")}
        return {"point": {"train": {"steps": steps}}, "decision": decision, "metrics": metrics}

    trials = [of(100.0, 1.0, "reject"), of(200.0, 3.0, "promote"), of(300.0, 2.0, "promote")]
    write_comparison(tmp_path / "page.html", trials, 2, "frechet_distance", "minimize")
    page = (tmp_path / "page.html").read_text()
    assert re.findall(r"<td>([123]00)</td>", page) == ["300", "200", "100"]
    assert "promoted</th>" not in page


RUN = """
import json, sys
from pathlib import Path
from kfp import local
from pipelines.sweep import Sweep, sweep_and_release
sections, space, home = json.loads(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
from troika.releases import local as places
local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(home / "runs"), raise_on_error=True)
done = sweep_and_release("python-local:1", sections, Sweep.parse(space, "test"))(
    store=places.store_url(home), release_remote=places.release_remote(home), environment="local"
)
print("DECISION", done.outputs["decision"])
print("PAGE", done.outputs["comparison"].path)
"""


def test_a_sweep_ends_in_a_comparison_and_in_the_release_of_its_winner(tmp_path: Path) -> None:
    import json

    space = {**SPACE, "parameters": {"train.steps": {"type": "int", "values": [1, 300]}}}
    sections = quick_sections(promoted=True)
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(sections), json.dumps(space), str(tmp_path)],
        check=False, cwd=REPOSITORY, env=plain_environment(), capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "DECISION promote" in done.stdout
    found = re.search(r"PAGE (.*)", done.stdout)
    assert found
    page = Path(found[1]).read_text()
    (best,) = re.findall(r"<tr><td>(\d+) <strong", page)
    assert best == "1"  # 300 steps, not one
    assert read_release(tmp_path / "releases.git", "local") is not None
    (manifest,) = (tmp_path / "store").glob("digits/*/manifest.json")
    assert json.loads(manifest.read_text())["lineage"]["train"]["steps"] == 300
