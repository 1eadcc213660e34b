"""Commands that compile the pipeline, send it to Kubeflow and follow it there: a part of the `troika` command."""
# ruff: noqa: PLC0415

from pathlib import Path
from typing import Annotated

import typer

from troika.cli_data import set_version
from troika.cli_parameters import PARAMS, Changes, ParamsFile, read_parameters

ClusterFile = Annotated[
    Path, typer.Option("--cluster", envvar="TROIKA_CLUSTER", help="What pods get: memory, GPUs, secrets' names.")
]
Host = Annotated[str, typer.Option(envvar="TROIKA_KUBEFLOW", help="URL of Kubeflow Pipelines.")]
Namespace = Annotated[str, typer.Option(help="Namespace of the runs.")]
ServiceAccount = Annotated[
    str | None, typer.Option(help="Account of the runs' pods, such as troika-pipeline; default: Kubeflow's.")
]
Experiment = Annotated[str, typer.Option(help="Experiment that the runs are grouped under.")]
_CLUSTER = Path("pipelines/cluster.yaml")


def pipeline(
    image: Annotated[
        str, typer.Option(envvar="TROIKA_TRAIN_IMAGE", help="Train image, by digest or by a tag never used twice.")
    ] = "troika-train:latest",
    cluster: ClusterFile = _CLUSTER,
    namespace: Annotated[str, typer.Option(help="Of the objects for Git.")] = "kubeflow",
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("build"),
    changes: Changes = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Compile the package that is uploaded to Kubeflow, and the same as objects that a cluster follows by Git."""
    from pipelines.cluster import read_cluster
    from pipelines.compile import compile_manifests, compile_pipeline

    sections, resources = read_parameters(params, changes, {}), read_cluster(cluster)
    package, manifests = out / "pipeline.yaml", out / "pipeline-manifests.yaml"
    version = compile_pipeline(package, image, sections, resources)
    compile_manifests(manifests, version, namespace, image, sections, resources)
    typer.echo(version)
    typer.echo(f"  {package}: upload it in the Kubeflow UI under Pipelines, or use `troika submit`")
    typer.echo(f"  {manifests}: Pipeline and PipelineVersion, for Git")


def submit(
    host: Host,
    image: Annotated[str, typer.Option(envvar="TROIKA_TRAIN_IMAGE", help="Train image, by digest.")],
    store: Annotated[str, typer.Option(envvar="TROIKA_STORE", help="URL of the model store.")],
    release_remote: Annotated[
        str, typer.Option(envvar="TROIKA_RELEASE_REMOTE", help="Git repository of releases, as pods reach it.")
    ],
    to: Annotated[str, typer.Option("--to", envvar="TROIKA_ENVIRONMENT", help="Environment to release to.")],
    namespace: Namespace = "kubeflow",
    service_account: ServiceAccount = None,
    experiment: Experiment = "troika",
    cluster: ClusterFile = _CLUSTER,
    changes: Changes = None,
    params: ParamsFile = PARAMS,
    follow: Annotated[bool, typer.Option(help="Tell each step's state until the end.")] = True,
) -> None:
    """Upload the pipeline to Kubeflow if it is new there, start a run and follow it.

    Exit status 1: the run failed.
    """
    from tempfile import TemporaryDirectory

    from pipelines.cluster import read_cluster
    from pipelines.compile import compile_pipeline
    from pipelines.submit import Kubeflow

    with TemporaryDirectory(prefix="troika-submit-") as scratch:
        package = Path(scratch) / "pipeline.yaml"
        sections = read_parameters(params, changes, {})
        set_version(sections, files=False)
        compile_pipeline(package, image, sections, read_cluster(cluster))
        kubeflow = Kubeflow(host, namespace, service_account)
        version = kubeflow.upload(package)
    typer.echo(f"{version.name} {'uploaded' if version.new else 'is there already'}")
    arguments = {"store": store, "release_remote": release_remote, "environment": to}
    run_id = kubeflow.start(version, arguments, experiment)
    typer.echo(kubeflow.link(run_id))
    if follow:
        kubeflow.follow(run_id, typer.echo)
        typer.echo("succeeded")


def sweep(
    space: Annotated[Path, typer.Argument(help="YAML file: algorithm, trials, objective, parameters.")],
    image: Annotated[
        str, typer.Option(envvar="TROIKA_TRAIN_IMAGE", help="Train image, by digest or by a tag never used twice.")
    ] = "troika-train:latest",
    cluster: ClusterFile = _CLUSTER,
    out: Annotated[Path, typer.Option(help="Package to write.")] = Path("build/sweep.yaml"),
    changes: Changes = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Compile a search over parameters, whose winner is trained, judged and released, for Kubeflow."""
    from pipelines.cluster import read_cluster
    from pipelines.sweep import compile_sweep, read_sweep

    trials = compile_sweep(
        out, image, read_parameters(params, changes, {}), read_sweep(space), read_cluster(cluster)
    )
    typer.echo(f"{out}: {trials} trials; upload it in the Kubeflow UI under Pipelines")


def recurring(
    declarations: Annotated[Path, typer.Argument(help="YAML file: name -> cron, arguments, enabled.")],
    host: Host,
    namespace: Namespace = "kubeflow",
    service_account: ServiceAccount = None,
    experiment: Experiment = "troika",
) -> None:
    """Make Kubeflow's recurring runs of this pipeline those of a file; each follows the newest version."""
    from pipelines.submit import Kubeflow, read_recurring

    declared = read_recurring(declarations)
    Kubeflow(host, namespace, service_account).reconcile(declared, experiment, typer.echo)
