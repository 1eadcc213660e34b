"""A sweep: its trials, its package, and a whole one through KFP's local runner."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import dsl
from quick import REPOSITORY, plain_environment, quick_sections

from components.step import read_sections
from pipelines.cluster import read_cluster
from pipelines.sweep import Sweep, compile_sweep, read_sweep, summarise
from troika.errors import ParameterError
from troika.quality.comparison import best_trial, write_comparison
from troika.quality.trials import add_results, finished, read_trials, result_of, write_trials
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
        (
            {"objective": {"metric": "frechet_distence", "goal": "minimize"}},
            "no figure 'frechet_distence'",
        ),
        ({"parameters": {"train.seed": {"type": "int", "min": 0.5, "max": 0.9}}}, "whole numbers"),
        ({"parameters": {"train.seed": {"type": "int", "min": 0, "max": 1e30}}}, "whole numbers of at most"),
        (
            {"parameters": {f"train.k{n}": {"type": "int", "values": [*range(99)]} for n in range(9)}},
            "500 are the",
        ),
        (
            {"parameters": {name: {"type": "categorical", "values": [1]} for name in ("train.seed", "train")}},
            "train.seed is a part of train, and one would replace the other",
        ),
        ({**RANDOM, "parameters": {"train.seed": {"type": "int", "values": [1, 2]}}}, "have 2 combinations"),
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
        {"train.steps": {"type": "categorical", "values": [date(2026, 1, 1)]}},
        {"tarin.steps": {"type": "int", "values": [1]}},
        {"prepare_data.steps": {"type": "int", "values": [1]}},  # would be the same in every trial
    ],
)
def test_a_trial_that_could_not_run_is_refused_before_anything_runs(
    parameters: dict[str, Any], tmp_path: Path
) -> None:
    sections = read_sections(REPOSITORY / "params.yaml")
    with pytest.raises(ParameterError, match=r"step[sz]|tarin|prepare_data is the same"):
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
    (loop,) = loops(graph)
    assert loop["iteratorPolicy"]["parallelismLimit"] == 2


LARGEST_ARGUMENT = 128 * 1024
"""Of one argument of a process under Linux (MAX_ARG_STRLEN), its final zero byte included."""
WIDE: dict[str, Any] = {
    **RANDOM,
    "trials": 500,
    "parameters": {
        **RANDOM["parameters"],
        "train.presets.r3gan.penalty_gamma_start": {"type": "double", "min": 0.3, "max": 3.0, "log": True},
        "train.presets.r3gan.loss": {"type": "categorical", "values": ["relativistic", "non_saturating"]},
        "train.seed": {"type": "int", "min": 0, "max": 2**40},
    },
}


def arguments(graph: dict[str, Any], result: str) -> Iterator[tuple[str, int]]:
    """Sizes of what the backend hands to one process as one argument, for every task.

    A driver gets task, component and container as JSON; a pod gets the component and its inputs, constants and
    collected results in full, besides about 2 KiB for each artifact.
    """
    every = {"root": graph["root"], **graph["components"]}
    executors = graph["deploymentSpec"]["executors"]
    for place, component in every.items():
        yield f"component {place}", size(component)
        if "executorLabel" in component:
            yield f"container {place}", size(executors[component["executorLabel"]])
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            yield f"task {place}/{name}", size(task)
            inputs = {
                key: source["runtimeValue"]["constant"]
                for key, source in task.get("inputs", {}).get("parameters", {}).items()
                if "constant" in source.get("runtimeValue", {})
            }
            if "results" in task.get("inputs", {}).get("parameters", {}):
                loop = task["inputs"]["parameters"]["results"]["taskOutputParameter"]["producerTask"]
                items = graph["root"]["dag"]["tasks"][loop]["parameterIterator"]["items"]["raw"]
                inputs["results"] = [result] * len(json.loads(items))
            yield f"inputs {place}/{name}", size(inputs) + 2048 * len(task.get("inputs", {}).get("artifacts", {}))


def size(value: Any) -> int:
    # With blanks after commas and colons, since Go's protojson puts some in at random.
    return len(json.dumps(value, ensure_ascii=False, separators=(", ", ": ")).encode()) + 1


def widest_result(folder: Path) -> str:
    """A result with more figures, longer names and more digits than evaluate writes."""
    (folder / "metrics.json").write_text(json.dumps({f"{number:02}_{'x' * 24}": 1 / 3 for number in range(30)}))
    return result_of(499, "inconclusive", folder / "metrics.json")


@pytest.mark.parametrize("trials", [1, 50, 51, 500])
def test_no_task_of_a_large_sweep_gets_more_than_an_argument_holds(trials: int, tmp_path: Path) -> None:
    sections = read_sections(REPOSITORY / "params.yaml")
    compile_sweep(tmp_path / "p.yaml", "x:1", sections, sweep({**WIDE, "trials": trials}))
    graph = next(yaml.load_all((tmp_path / "p.yaml").read_text(), yaml.CSafeLoader))
    numbers = [number for loop in loops(graph) for number in json.loads(loop["parameterIterator"]["items"]["raw"])]
    assert sorted(numbers) == list(range(trials))
    sizes = dict(arguments(graph, widest_result(tmp_path)))
    assert len(sizes) > 40
    assert max(sizes.values()) < LARGEST_ARGUMENT, max(sizes, key=lambda place: sizes[place])


def test_the_test_of_arguments_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.sweep._BATCH", 500)
    compile_sweep(tmp_path / "p.yaml", "x:1", read_sections(REPOSITORY / "params.yaml"), sweep(WIDE))
    graph = next(yaml.load_all((tmp_path / "p.yaml").read_text(), yaml.CSafeLoader))
    sizes = dict(arguments(graph, widest_result(tmp_path)))
    assert [place for place, found in sizes.items() if found >= LARGEST_ARGUMENT] == ["inputs root/gather-trials"]


def test_a_sweep_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    sections = read_sections(REPOSITORY / "params.yaml")
    long = {"type": "categorical", "values": ["x" * 500]}
    with pytest.raises(ParameterError, match=r"the values of the sweep's 500 trials take \d+ bytes"):
        compile_sweep(
            tmp_path / "p.yaml",
            "x:1",
            sections,
            sweep({**WIDE, "parameters": {**WIDE["parameters"], "train.x": long}}),
        )
    with pytest.raises(ParameterError, match="trials"):
        sweep({**WIDE, "trials": 501})


def test_the_batches_run_one_after_another(tmp_path: Path) -> None:
    """So that no more trials run at once than the sweep says."""
    compile_sweep(
        tmp_path / "p.yaml", "x:1", read_sections(REPOSITORY / "params.yaml"), sweep({**WIDE, "trials": 120})
    )
    graph = yaml.load((tmp_path / "p.yaml").read_text(), yaml.CSafeLoader)
    tasks = graph["root"]["dag"]["tasks"]
    names = sorted(name for name, task in tasks.items() if "parameterIterator" in task)
    needed = [tasks[name]["dependentTasks"] for name in names]
    assert [{"gather-trials", "gather-trials-2"} & set(tasks) & set(found) for found in needed] == [
        set(), {"gather-trials"}, {"gather-trials-2"},
    ]  # fmt: skip


def test_a_trials_figures_come_from_its_file_and_not_from_metadata(tmp_path: Path) -> None:
    """Backends write texts such as these into the metadata of each artifact; a sweep once died of them."""
    metrics = dsl.Metrics(name="metrics", uri=str(tmp_path / "metrics"))
    metrics.metadata.update(
        display_name="metrics", store_session_info='{"Provider":"minio"}', frechet_distance=9.0
    )
    Path(metrics.path).write_text('{"frechet_distance": 0.25, "promoted": true}')
    assert json.loads(summarise(3, "promote", metrics)) == {
        "number": 3, "decision": "promote", "metrics": {"frechet_distance": 0.25, "promoted": 1.0},
    }  # fmt: skip


def test_results_find_their_trials_in_any_order(tmp_path: Path) -> None:
    write_trials(tmp_path / "trials", ["train.steps", "train.presets.a.b"], [[1, "x"], [2, "08"], [3, 1e-05]])
    assert read_trials(tmp_path / "trials")[2]["point"] == {"train": {"steps": 3, "presets": {"a": {"b": 1e-05}}}}
    results = [json.dumps({"number": n, "decision": f"d{n}", "metrics": {"m": n}}) for n in (2, 0)]
    add_results(tmp_path / "trials", results, tmp_path / "some")
    with pytest.raises(ParameterError, match="trials 1 have no result"):
        finished(tmp_path / "some")
    add_results(tmp_path / "some", ['{"number": 1.0, "decision": "d1", "metrics": {"m": 1}}'], tmp_path / "all")
    assert [(t["decision"], t["metrics"]["m"]) for t in finished(tmp_path / "all")] == [
        ("d0", 0),
        ("d1", 1),
        ("d2", 2),
    ]


@pytest.mark.parametrize("value", ["08", "1e5", 1e-05, None, True, [1, 2], {"a": "b=c"}, "a, b", "# no"])
def test_a_value_of_a_trial_is_what_the_file_says(value: Any) -> None:
    space = {**SPACE, "parameters": {"train.x": {"type": "categorical", "values": [value]}}}
    assert sweep(space).points() == [{"train": {"x": value}}]


@pytest.mark.parametrize(
    ("access", "parallel", "kept"),
    [
        ("ReadWriteOnce", 2, False),
        ("ReadWriteOnce", 1, True),
        ("ReadWriteMany", 2, True),
        ("ReadWriteOncePod", 3, False),
    ],
)
def test_parallel_trials_share_no_claim_that_one_node_holds(
    access: str, parallel: int, kept: bool, tmp_path: Path
) -> None:
    """A second pod on another node would wait for ever."""
    cluster = read_cluster(REPOSITORY / "pipelines/cluster.yaml", {"training_state_access": access})
    sections = read_sections(REPOSITORY / "params.yaml")
    compile_sweep(tmp_path / "p.yaml", "x:1", sections, sweep({**SPACE, "parallel": parallel}), cluster)
    graph, platform = yaml.load_all((tmp_path / "p.yaml").read_text(), yaml.CSafeLoader)
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    (loop,) = loops(graph)
    trial_train = graph["components"][loop["componentRef"]["name"]]["dag"]["tasks"]["train"]["componentRef"][
        "name"
    ]
    label = graph["components"][trial_train]["executorLabel"]
    states = {name: "pvcMount" in of for name, of in pods.items() if name in ("exec-train", "exec-train-2")}
    assert states.pop(label) == kept
    assert list(states.values()) == [True]  # the winner's training has the claim for itself
    for name in ("exec-train", "exec-train-2"):
        variables = {one["name"] for one in graph["deploymentSpec"]["executors"][name]["container"].get("env", [])}
        assert ("TROIKA_TRAINING_STATE" in variables) == ("pvcMount" in pods[name])


def test_small_tasks_and_trials_read_no_secrets(tmp_path: Path) -> None:
    cluster = read_cluster(REPOSITORY / "pipelines/cluster.yaml")
    compile_sweep(tmp_path / "p.yaml", "x:1", read_sections(REPOSITORY / "params.yaml"), sweep(SPACE), cluster)
    graph, platform = yaml.load_all((tmp_path / "p.yaml").read_text(), yaml.CSafeLoader)
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    reading = {name for name, of in pods.items() if {"secretAsEnv", "secretAsVolume"} & set(of)}
    (loop,) = loops(graph)
    inside = graph["components"][loop["componentRef"]["name"]]["dag"]["tasks"].values()
    trial = {graph["components"][task["componentRef"]["name"]]["executorLabel"] for task in inside}
    assert len(trial) == 5
    assert not reading & trial
    assert not {name for name in reading if "trial" in name or "compare" in name}
    assert len(reading) == 4


def loops(graph: dict[str, Any]) -> list[dict[str, Any]]:
    return [task for task in graph["root"]["dag"]["tasks"].values() if "parameterIterator" in task]


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
from pipelines import sweep
from pipelines.sweep import Sweep, sweep_and_release
sweep._BATCH = 1  # so that the trials come in two batches
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
    space = {**SPACE, "parameters": {"train.steps": {"type": "int", "values": [1, 300]}}}
    sections = quick_sections(promoted=True)
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(sections), json.dumps(space), str(tmp_path)],
        check=False, cwd=REPOSITORY, env=plain_environment(), capture_output=True, text=True, timeout=580,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "DECISION promote" in done.stdout
    found = re.search(r"PAGE (.*)", done.stdout)
    assert found
    page = Path(found[1]).read_text()
    (best,) = re.findall(r"<tr><td>(\d+) <strong", page)
    assert best == "1"  # 300 steps, not one
    assert page.count("<tr>") == 3
    assert read_release(tmp_path / "releases.git", "local") is not None
    (manifest,) = (tmp_path / "store").glob("digits/*/manifest.json")
    assert json.loads(manifest.read_text())["lineage"]["train"]["steps"] == 300
