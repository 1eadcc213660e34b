"""Search parameters: trials side by side, one comparison, and the winner through the whole of train_and_release.

A search space is declared in a file, in Katib's terms (see docs/guides/kubeflow.md); its trials are drawn when the
pipeline is compiled, so that a package says which ones it runs.
"""

# ruff: noqa: PLC0415 - KFP copies the source of each wrapper, which imports what it needs from the image

import json
import math
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kfp import dsl
from pydantic import Field, field_validator, model_validator
from scipy import stats
from sklearn.model_selection import ParameterGrid, ParameterSampler

from components.step import check_sections, resolve_params
from pipelines import steps as wrappers
from pipelines.cluster import Cluster, apply
from pipelines.graph import margin, train_and_release, without_nulls
from pipelines.package import EXACT, check_values, write_package
from troika.errors import ParameterError
from troika.params import Params, nested, read_mapping

PIPELINE_NAME = "troika-sweep"
_SEARCHED = ("train", "export_model", "evaluate")
"""Steps that run for each trial."""
_MOST = 500
_BATCH = 50
"""Trials whose results one task takes: about 1 KiB each, in one argument of at most 128 KiB."""
_LARGEST_TABLE = 96 * 1024
"""Bytes of all trials' values, which one task gets as an argument; the rest is for what stands beside them."""


def read_sweep(path: Path) -> "Sweep":
    """Read a sweep file.

    Raises:
        ParameterError: it is missing or not valid; the message names the key.
    """
    return Sweep.parse(read_mapping(path, "sweep file", "another FILE"), str(path))


def compile_sweep(
    package: Path,
    image: str,
    sections: Mapping[str, Mapping[str, Any]],
    sweep: "Sweep",
    cluster: Cluster | None = None,
    light_image: str | None = None,
) -> int:
    """Write the package of a sweep; gives the number of its trials.

    Raises:
        ParameterError: a trial's parameters are not valid, which is told now and not hours later; or too many.
    """
    points = sweep.points()
    for point in points:
        check_values(point, "a trial of the sweep", nulls=False)
    size = len(json.dumps(sweep.table()))
    if size > _LARGEST_TABLE:
        raise ParameterError(
            f"the values of the sweep's {len(points)} trials take {size} bytes, and one task of Kubeflow gets at "
            f"most {_LARGEST_TABLE}: draw fewer trials, change fewer parameters, or give shorter values"
        )
    for point in points:
        check_sections(point, "parameters")
        if shared := [name for name in point if name not in _SEARCHED]:
            raise ParameterError(
                f"parameters: {shared[0]} is the same for all trials; search those of {', '.join(_SEARCHED)}"
            )
        for name in point:
            step = getattr(import_module(f"components.{name}"), name)
            resolve_params(step, sections[name], overrides=point, where="a trial of the sweep")
    write_package(package, sweep_and_release(image, sections, sweep, cluster, light_image))
    return len(points)


class Space(Params):
    """The values that one parameter may take: `values`, or all from `min` to `max`."""

    type: Literal["double", "int", "categorical"]
    values: list[Any] | None = Field(default=None, min_length=1)
    min: float | None = None
    max: float | None = None
    log: bool = False
    """Draw evenly on a logarithmic scale; for `double`."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> "Space":
        if self.values is not None:
            if self.min is not None or self.max is not None or self.log:
                raise ValueError("give either values, or min and max")
            return self
        if self.type == "categorical" or self.min is None or self.max is None or self.min >= self.max:
            raise ValueError("give values, or for double and int a min below a max")
        if self.type == "int" and not all(end.is_integer() and abs(end) <= EXACT for end in (self.min, self.max)):
            raise ValueError(f"min and max of an int are whole numbers of at most {EXACT}")
        if self.log and (self.min <= 0 or self.type != "double"):
            raise ValueError("log is for double, with a min above 0")
        return self

    def distribution(self) -> Any:
        """For a random search."""
        if self.values is not None:
            return self.values
        assert self.min is not None and self.max is not None  # noqa: S101, PT018 - checked above
        if self.type == "int":
            return stats.randint(int(self.min), int(self.max) + 1)
        return stats.loguniform(self.min, self.max) if self.log else stats.uniform(self.min, self.max - self.min)


class Objective(Params):
    """What makes a trial the better one."""

    metric: str
    goal: Literal["minimize", "maximize"]

    @field_validator("metric")
    @classmethod
    def _is_measured(cls, metric: str) -> str:
        from troika.quality.tally import NOTES

        # A word that nothing measures would be found out by `compare`, after all trials.
        if metric not in NOTES:
            raise ValueError(f"there is no figure {metric!r}; there are {', '.join(NOTES)}")
        return metric


class Sweep(Params):
    """Content of a sweep file."""

    algorithm: Literal["grid", "random"]
    trials: int | None = Field(default=None, ge=1, le=_MOST)
    """Of a random search."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    parallel: int = Field(default=1, ge=1)
    objective: Objective
    parameters: dict[str, Space] = Field(min_length=1)
    """STEP.KEY of params.yaml -> its values."""

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "Sweep":
        if self.algorithm == "random" and self.trials is None:
            raise ValueError("trials: a random search needs a number of trials")
        if self.algorithm == "grid":
            if self.trials is not None:
                raise ValueError("trials: a grid has as many as it has points")
            for name, space in self.parameters.items():
                if space.values is None:
                    raise ValueError(f"parameters.{name}: a grid needs values")
        for name in self.parameters:
            if inner := [other for other in self.parameters if other.startswith(f"{name}.")]:
                raise ValueError(f"parameters: {inner[0]} is a part of {name}, and one would replace the other")
        if self.possible is not None:
            if self.algorithm == "grid" and self.possible > _MOST:
                raise ValueError(f"the sweep has {self.possible} trials; {_MOST} are the most")
            if self.trials is not None and self.possible < self.trials:
                raise ValueError(f"trials: these values have {self.possible} combinations, not {self.trials}")
        return self

    @property
    def possible(self) -> int | None:
        """How many combinations its values have; None where one is drawn from a range."""
        if any(space.values is None for space in self.parameters.values()):
            return None
        return math.prod(len(space.values or ()) for space in self.parameters.values())

    def table(self) -> dict[str, list[Any]]:
        """Return `names` of the changed parameters, and of each trial their values in `rows`; always the same.

        Raises:
            ParameterError: there are too many trials.
        """
        if self.algorithm == "grid":
            drawn = list(ParameterGrid({name: space.values for name, space in self.parameters.items()}))
        else:
            spaces = {name: space.distribution() for name, space in self.parameters.items()}
            drawn = list(ParameterSampler(spaces, self.trials or 1, random_state=self.seed))
        if len(drawn) > _MOST:
            raise ParameterError(f"the sweep has {len(drawn)} trials; {_MOST} are the most")
        names = sorted(self.parameters)
        return {"names": names, "rows": [[_plain(point[name]) for name in names] for point in drawn]}

    def points(self) -> list[dict[str, Any]]:
        """Return each trial's changed parameters as nested values.

        Raises:
            ParameterError: there are too many trials.
        """
        table = self.table()
        return [nested(dict(zip(table["names"], row, strict=True))) for row in table["rows"]]


def sweep_and_release(
    image: str,
    sections: Mapping[str, Mapping[str, Any]],
    sweep: Sweep,
    cluster: Cluster | None = None,
    light_image: str | None = None,
) -> Any:
    """Build the pipeline.

    Args:
        image: the train image.
        sections: params.yaml; every trial changes what the sweep says.
        sweep: the search space.
        cluster: what pods get.
        light_image: image of the winner's steps that train and judge nothing; None: the train image.
    """
    component: Callable[..., Any] = lambda step: dsl.component(  # noqa: E731
        step, base_image=image, install_kfp_package=False
    )
    release = train_and_release(image, sections, cluster, light_image)
    table = sweep.table()

    class Outputs(NamedTuple):
        comparison: dsl.HTML
        decision: str

    @dsl.pipeline(  # type: ignore[untyped-decorator]
        name=PIPELINE_NAME,
        description="Train and judge trials side by side, compare them, then train, judge and release the best.",
    )
    def pipeline(store: str, release_remote: str, environment: str) -> Outputs:
        """Search parameters, and release the winner if it passes the gate.

        Args:
            store: URL of the model store, such as s3://models.
            release_remote: Git repository whose release.yaml the serving cluster follows.
            environment: Overlay to release to, such as staging.
        """
        data, train, gate = sections["prepare_data"], sections["train"], sections["evaluate"]
        prepared = component(wrappers.prepare_data)(
            params=dict(data),
            overrides={},
            source=data["source"],
            data_path=data["path"],
            dvc_repo=data["dvc"]["repo"],
            dvc_rev=data["dvc"]["rev"],
            data_version=data["version"],
        )
        seen = component(wrappers.train_evaluator)(
            params=dict(sections["train_evaluator"]), overrides={}, dataset=prepared.outputs["dataset"]
        )
        # Numbers, not points, are what the loops run over: Argo keeps the items with every node of every trial.
        drawn = component(draw_trials)(table=table)
        trials = drawn.outputs["trials"]
        small = [drawn]
        for first in range(0, len(table["rows"]), _BATCH):
            numbers = list(range(len(table["rows"])))[first : first + _BATCH]
            with dsl.ParallelFor(items=numbers, parallelism=sweep.parallel, name=f"trials-{first}") as number:
                # From the trials with the results of the batch before, so that only one batch runs at a time.
                point = component(take_trial)(number=number, trials=trials)
                trained = component(wrappers.train)(
                    params=dict(train),
                    overrides=point.output,
                    framework=train["framework"],
                    preset=train["preset"],
                    steps=train["steps"],
                    seed=train["seed"],
                    dataset=prepared.outputs["dataset"],
                )
                exported = component(wrappers.export_model)(
                    params=dict(sections["export_model"]),
                    overrides=point.output,
                    model_name=sections["export_model"]["model_name"],
                    checkpoint=trained.outputs["checkpoint"],
                )
                evaluated = component(wrappers.evaluate)(
                    params=without_nulls(gate),
                    overrides=point.output,
                    # Trials are compared with each other; the winner meets the champion.
                    champion="{}",
                    champion_must=gate["champion"]["must"],
                    label_agreement_margin=margin(gate, "label_agreement", "below_floor"),
                    frechet_distance_margin=margin(gate, "frechet_distance", "above_floor"),
                    bundle=exported.outputs["bundle"],
                    dataset=prepared.outputs["dataset"],
                    evaluator=seen.outputs["evaluator"],
                )
                summed = component(summarise)(
                    number=number, decision=evaluated.outputs["Output"], metrics=evaluated.outputs["metrics"]
                )
            gathered = component(gather_trials)(trials=trials, results=dsl.Collected(summed.output))
            if cluster is not None:
                apply(trained, cluster, "train", with_state=cluster.keeps_states_at_once or sweep.parallel == 1)
                apply(exported, cluster, "export_model")
                apply(evaluated, cluster, "evaluate", with_secrets=False)
                small += [point, summed, gathered]
            trials = gathered.outputs["gathered"]
        compared = component(compare)(trials=trials, metric=sweep.objective.metric, goal=sweep.objective.goal)
        released = release(
            store=store,
            release_remote=release_remote,
            environment=environment,
            overrides=compared.outputs["Output"],
        )
        if cluster is not None:
            apply(prepared, cluster, "prepare_data")
            apply(seen, cluster, "train_evaluator")
            for task in (*small, compared):
                apply(task, cluster, "find_champion", with_secrets=False)
        return Outputs(comparison=compared.outputs["comparison"], decision=released.outputs["decision"])

    return pipeline


def draw_trials(table: dict, trials: dsl.Output[dsl.Artifact]) -> None:  # type: ignore[type-arg]
    """Write down the trials: which parameters each changes."""
    from pathlib import Path

    from troika.quality.trials import write_trials

    write_trials(Path(trials.path), table["names"], table["rows"])


def take_trial(number: int, trials: dsl.Input[dsl.Artifact]) -> dict:  # type: ignore[type-arg]
    """The changes of one trial."""
    from pathlib import Path

    from troika.quality.trials import read_trials

    changes: dict = read_trials(Path(trials.path))[number]["point"]  # type: ignore[type-arg]
    return changes


def summarise(number: int, decision: str, metrics: dsl.Input[dsl.Metrics]) -> str:
    """What came of one trial. From the file: backends put texts of their own into an artifact's metadata."""
    from pathlib import Path

    from troika.quality.trials import result_of

    return result_of(number, decision, Path(metrics.path))


def gather_trials(
    trials: dsl.Input[dsl.Artifact],
    results: list,  # type: ignore[type-arg]
    gathered: dsl.Output[dsl.Artifact],
) -> None:
    """Add the results of some trials to all."""
    from pathlib import Path

    from troika.quality.trials import add_results

    add_results(Path(trials.path), results, Path(gathered.path))


def compare(
    trials: dsl.Input[dsl.Artifact],
    metric: str,
    goal: str,
    comparison: dsl.Output[dsl.HTML],
) -> dict:  # type: ignore[type-arg]
    """The best trial's changes; those of a promoted one, if there is any."""
    from pathlib import Path

    from components.step import clear_errors
    from troika.quality.comparison import best_trial, comparison_lines, write_comparison
    from troika.quality.trials import finished

    with clear_errors():
        found = finished(Path(trials.path))
        best = best_trial(found, metric, goal)
        write_comparison(Path(comparison.path), found, best, metric, goal)
        print("\n".join(comparison_lines(found, best, metric)))  # noqa: T201 - `troika sweep --submit` reads it
    changes: dict = found[best]["point"]  # type: ignore[type-arg]
    return changes


def _plain(value: Any) -> Any:
    """A number of numpy as one of Python."""
    return value.item() if hasattr(value, "item") else value
