"""Search parameters: trials side by side, one comparison, and the winner through the whole of train_and_release.

A search space is declared in a file, in Katib's terms (see docs/guides/kubeflow.md); its trials are drawn when the
pipeline is compiled, so that a package says which ones it runs.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kfp import dsl
from pydantic import Field, model_validator
from scipy import stats
from sklearn.model_selection import ParameterGrid, ParameterSampler

from components.step import check_sections, resolve_params
from pipelines import steps as wrappers
from pipelines.cluster import Cluster, apply
from pipelines.graph import margin, train_and_release, without_nulls
from pipelines.package import check_values, write_package
from troika.errors import ParameterError
from troika.params import Params, parse_assignments, read_mapping

PIPELINE_NAME = "troika-sweep"
_MOST = 200


def read_sweep(path: Path) -> "Sweep":
    """Read a sweep file.

    Raises:
        ParameterError: it is missing or not valid; the message names the key.
    """
    return Sweep.parse(read_mapping(path), str(path))


def compile_sweep(
    package: Path,
    image: str,
    sections: Mapping[str, Mapping[str, Any]],
    sweep: "Sweep",
    cluster: Cluster | None = None,
) -> int:
    """Write the package of a sweep; gives the number of its trials.

    Raises:
        ParameterError: a trial's parameters are not valid, which is told now and not hours later; or too many.
    """
    points = sweep.points()
    for point in points:
        check_sections(point, "parameters")
        check_values(point, "a trial of the sweep")
        for name in point:
            step = getattr(import_module(f"components.{name}"), name)
            resolve_params(step, sections[name], overrides=point, where="a trial of the sweep")
    write_package(package, sweep_and_release(image, sections, sweep, cluster))
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
        return self

    def points(self) -> list[dict[str, Any]]:
        """Of each trial, the changed parameters as nested values; the same for the same sweep.

        Raises:
            ParameterError: there are too many.
        """
        if self.algorithm == "grid":
            drawn = list(ParameterGrid({name: space.values for name, space in self.parameters.items()}))
        else:
            spaces = {name: space.distribution() for name, space in self.parameters.items()}
            drawn = list(ParameterSampler(spaces, self.trials or 1, random_state=self.seed))
        if len(drawn) > _MOST:
            raise ParameterError(f"the sweep has {len(drawn)} trials; {_MOST} are the most")
        return [
            parse_assignments([f"{name}={_plain(value)!r}" for name, value in sorted(point.items())])
            for point in drawn
        ]


def sweep_and_release(
    image: str, sections: Mapping[str, Mapping[str, Any]], sweep: Sweep, cluster: Cluster | None = None
) -> Any:
    """Build the pipeline.

    Args:
        image: the train image.
        sections: params.yaml; every trial changes what the sweep says.
        sweep: the search space.
        cluster: what pods get.
    """
    component: Callable[..., Any] = lambda step: dsl.component(  # noqa: E731
        step, base_image=image, install_kfp_package=False
    )
    release = train_and_release(image, sections, cluster)
    points = sweep.points()

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
        with dsl.ParallelFor(items=points, parallelism=sweep.parallel, name="trials") as point:
            trained = component(wrappers.train)(
                params=dict(train),
                overrides=point,
                framework=train["framework"],
                preset=train["preset"],
                steps=train["steps"],
                seed=train["seed"],
                dataset=prepared.outputs["dataset"],
            )
            exported = component(wrappers.export_model)(
                params=dict(sections["export_model"]),
                overrides=point,
                model_name=sections["export_model"]["model_name"],
                checkpoint=trained.outputs["checkpoint"],
            )
            evaluated = component(wrappers.evaluate)(
                params=without_nulls(gate),
                overrides=point,
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
                point=point, decision=evaluated.outputs["Output"], metrics=evaluated.outputs["metrics"]
            )
        compared = component(compare)(
            trials=dsl.Collected(summed.output), metric=sweep.objective.metric, goal=sweep.objective.goal
        )
        released = release(
            store=store,
            release_remote=release_remote,
            environment=environment,
            overrides=compared.outputs["Output"],
        )
        if cluster is not None:
            apply(prepared, cluster, "prepare_data")
            apply(trained, cluster, "train")
            apply(exported, cluster, "export_model")
            apply(seen, cluster, "train_evaluator")
            for task in (evaluated, summed, compared):
                apply(task, cluster, "evaluate")
        return Outputs(comparison=compared.outputs["comparison"], decision=released.outputs["decision"])

    return pipeline


def summarise(point: dict, decision: str, metrics: dsl.Input[dsl.Metrics]) -> dict:  # type: ignore[type-arg]
    """One trial: what was changed, what came of it."""
    return {"point": point, "decision": decision, "metrics": dict(metrics.metadata)}


def compare(
    trials: list,  # type: ignore[type-arg]
    metric: str,
    goal: str,
    comparison: dsl.Output[dsl.HTML],
) -> dict:  # type: ignore[type-arg]
    """The best trial's changes; those of a promoted one, if there is any."""
    from pathlib import Path  # noqa: PLC0415 - KFP copies the source of this function alone

    from components.step import clear_errors  # noqa: PLC0415
    from troika.quality.comparison import best_trial, write_comparison  # noqa: PLC0415

    with clear_errors():
        best = best_trial(trials, metric, goal)
        write_comparison(Path(comparison.path), trials, best, metric, goal)
    changes: dict = trials[best]["point"]  # type: ignore[type-arg]
    return changes


def _plain(value: Any) -> Any:
    """A number of numpy as one of Python."""
    return value.item() if hasattr(value, "item") else value
