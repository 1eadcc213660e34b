"""The graph: prepare_data -> train -> export_model -> evaluate -> publish_model -> release_model.

To evaluate, train_evaluator gives the eyes, and find_champion the model that is to be beaten.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kfp import dsl

from components.step import LIGHT
from pipelines import steps as wrappers
from pipelines.cluster import Cluster, apply
from pipelines.package import check_values

PIPELINE_NAME = "troika-train-and-release"


def margin(gate: Mapping[str, Any], figure: str, kind: str) -> float:
    """A limit of the parameter file that counts from real images' figure; -1 where it is of another kind."""
    found = gate["limits"].get(figure, {}).get(kind)
    return -1.0 if found is None else float(found)


def without_nulls(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section without keys that are null, which KFP cannot hand on."""
    return {
        key: without_nulls(value) if isinstance(value, Mapping) else value
        for key, value in section.items()
        if value is not None
    }


def train_and_release(
    image: str,
    sections: Mapping[str, Mapping[str, Any]],
    cluster: Cluster | None = None,
    light_image: str | None = None,
) -> Any:
    """Build the pipeline.

    Args:
        image: the train image, which every step can run in.
        sections: params.yaml; its values are the defaults of the run form, and whole sections go along.
        cluster: what pods get; None, on a laptop, sets nothing.
        light_image: image of the steps that train and judge nothing; None: the train image.

    Raises:
        ParameterError: a value of `sections` would reach a step as another one.
    """
    check_values({**sections, "evaluate": without_nulls(sections["evaluate"])}, "parameters", nulls=False)

    def component(wrapper: Callable[..., Any]) -> Any:
        chosen = light_image if light_image and wrapper.__name__ in LIGHT else image
        return dsl.component(wrapper, base_image=chosen, install_kfp_package=False)

    data, train, gate = sections["prepare_data"], sections["train"], sections["evaluate"]

    class Outputs(NamedTuple):
        decision: str
        bundle: dsl.Model
        verdict: dsl.Artifact
        data_report: dsl.HTML
        training_report: dsl.HTML
        evaluation_report: dsl.HTML

    @dsl.pipeline(  # type: ignore[untyped-decorator]
        name=PIPELINE_NAME,
        description="Train a generative model, judge it, and release it if it passes. "
        "A rejected model stops after `evaluate`: nothing reaches the store.",
    )
    def pipeline(
        store: str,
        release_remote: str,
        environment: str,
        source: str = data["source"],
        data_path: str = data["path"],
        dvc_repo: str = data["dvc"]["repo"],
        dvc_rev: str = data["dvc"]["rev"],
        data_version: str = data["version"],
        framework: str = train["framework"],
        preset: str = train["preset"],
        steps: int = train["steps"],
        seed: int = train["seed"],
        model_name: str = sections["export_model"]["model_name"],
        champion_must: str = gate["champion"]["must"],
        label_agreement_margin: float = margin(gate, "label_agreement", "below_floor"),
        frechet_distance_margin: float = margin(gate, "frechet_distance", "above_floor"),
        overrides: dict = {},  # type: ignore[type-arg]  # noqa: B006 - KFP reads it, nobody changes it
    ) -> Outputs:
        """Train a generative model, judge it, and release it if it passes.

        Args:
            store: URL of the model store, such as s3://models or file:///var/models.
            release_remote: Git repository whose release.yaml the serving cluster follows.
            environment: Overlay to release to, such as staging.
            source: Where images come from: digits, mnist5k (built in), idx, folder, npz; auto looks at data_path.
            data_path: File or folder with the images, as pods see it; with dvc_repo, the path inside it.
            dvc_repo: URL of a DVC-tracked Git repository; empty, the images lie in a mounted volume.
            dvc_rev: Tag, branch or commit of dvc_repo.
            data_version: Anything that changes with the data; cached results are used for the same one only.
            framework: What trains the network: pytorch or tensorflow; the train image must hold it.
            preset: Network and recipe: r3gan (best), dcgan (the classic convolutional one) or article (the classic
                MLP GAN, unconditional).
            steps: Training steps of one batch each.
            seed: Seed of training; another seed gives another model of about the same quality.
            model_name: Name under which Triton serves the model.
            champion_must: Gate: what it takes to replace the released model: beat it, match it, or ignore it.
            label_agreement_margin: Gate: how far the share of samples that show the requested class may lie below
                that of real images, 0..1; -1: params.yaml has a limit of another kind.
            frechet_distance_margin: Gate: how far the Fréchet distance to held-out images may lie above that of
                real images, as a share of their features' variance; -1: params.yaml has a limit of another kind.
            overrides: Advanced: any other value of params.yaml, such as {"train": {"batch_size": 256}}.
        """
        prepared = component(wrappers.prepare_data)(
            params=dict(data),
            overrides=overrides,
            source=source,
            data_path=data_path,
            dvc_repo=dvc_repo,
            dvc_rev=dvc_rev,
            data_version=data_version,
        )
        trained = component(wrappers.train)(
            params=dict(train),
            overrides=overrides,
            framework=framework,
            preset=preset,
            steps=steps,
            seed=seed,
            dataset=prepared.outputs["dataset"],
        )
        exported = component(wrappers.export_model)(
            params=dict(sections["export_model"]),
            overrides=overrides,
            model_name=model_name,
            checkpoint=trained.outputs["checkpoint"],
        )
        seen = component(wrappers.train_evaluator)(
            params=dict(sections["train_evaluator"]),
            overrides=overrides,
            dataset=prepared.outputs["dataset"],
        )
        found = component(wrappers.find_champion)(
            params=dict(sections["find_champion"]),
            overrides=overrides,
            remote=release_remote,
            environment=environment,
        )
        evaluated = component(wrappers.evaluate)(
            params=without_nulls(gate),
            overrides=overrides,
            champion_must=champion_must,
            label_agreement_margin=label_agreement_margin,
            frechet_distance_margin=frechet_distance_margin,
            champion=found.output,
            bundle=exported.outputs["bundle"],
            dataset=prepared.outputs["dataset"],
            evaluator=seen.outputs["evaluator"],
        )
        # In a condition KFP's local runner finds only an output that is named `Output`, as a return value is;
        # with any other name it skips the branch and calls the run a success (2.17.0).
        with dsl.If(evaluated.outputs["Output"] == "promote", name="promoted"):
            published = component(wrappers.publish_model)(
                store=store,
                bundle=exported.outputs["bundle"],
                verdict=evaluated.outputs["verdict"],
                reference=evaluated.outputs["reference"],
            )
            released = component(wrappers.release_model)(
                params=dict(sections["release_model"]),
                overrides=overrides,
                remote=release_remote,
                environment=environment,
                published=published.outputs["published"],
            )
        # What these do or read lies outside the run, so an earlier run's answer says nothing.
        found.set_caching_options(enable_caching=False)
        published.set_caching_options(enable_caching=False)
        released.set_caching_options(enable_caching=False)
        if cluster is not None:
            for task in (prepared, trained, exported, seen, found, evaluated, published, released):
                apply(task, cluster)
        return Outputs(
            decision=evaluated.outputs["Output"],
            bundle=exported.outputs["bundle"],
            verdict=evaluated.outputs["verdict"],
            data_report=prepared.outputs["report"],
            training_report=trained.outputs["report"],
            evaluation_report=evaluated.outputs["report"],
        )

    return pipeline
