"""Commands that compile the pipeline, send it to Kubeflow and follow it there: a part of the `troika` command."""
# ruff: noqa: PLC0415

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from troika.cli_data import set_version
from troika.cli_parameters import PARAMS, Changes, ParamsFile, read_parameters
from troika.errors import ParameterError

if TYPE_CHECKING:
    from pipelines.submit import Kubeflow

ClusterFile = Annotated[
    Path, typer.Option("--cluster", envvar="TROIKA_CLUSTER", help="What pods get: memory, GPUs, secrets' names.")
]
Host = Annotated[str, typer.Option(envvar="TROIKA_KUBEFLOW", help="URL of Kubeflow Pipelines.")]
Namespace = Annotated[str, typer.Option(envvar="TROIKA_NAMESPACE", help="Namespace of the pipeline and its runs.")]
ServiceAccount = Annotated[
    str | None, typer.Option(help="Account of the runs' pods, such as troika-pipeline; default: Kubeflow's.")
]
Experiment = Annotated[str, typer.Option(help="Experiment that the runs are grouped under.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the token for Kubeflow, read again for each request; default: "
        "TROIKA_KUBEFLOW_TOKEN_FILE, else the token in TROIKA_KUBEFLOW_TOKEN."
    ),
]
Authority = Annotated[
    Path | None,
    typer.Option(
        "--ca", envvar="TROIKA_KUBEFLOW_CA", help="PEM file that the server's certificate is checked by."
    ),
]
Patience = Annotated[
    float, typer.Option(min=0, help="Minutes for which a server that does not answer is asked again.")
]
Image = Annotated[str, typer.Option(envvar="TROIKA_TRAIN_IMAGE", help="Train image, by digest.")]
Store = Annotated[str, typer.Option(envvar="TROIKA_STORE", help="URL of the model store.")]
Remote = Annotated[
    str, typer.Option(envvar="TROIKA_RELEASE_REMOTE", help="Git repository of releases, as pods reach it.")
]
Environment = Annotated[str, typer.Option("--to", envvar="TROIKA_ENVIRONMENT", help="Environment to release to.")]
Retry = Annotated[bool, typer.Option(help="Try the run once more where a pod was lost, if the platform does not.")]
LightImage = Annotated[
    str | None,
    typer.Option(
        envvar="TROIKA_LIGHT_IMAGE",
        help="Image of the steps that train and judge nothing, by digest; default: the train image.",
    ),
]
CLUSTER = Path("pipelines/cluster.yaml")
_MINUTES = 10.0
_INTERRUPTED = 130


class AppliesByDefault(typer.core.TyperGroup):
    """A group whose command is `apply` where none is named: `troika recurring FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `apply` before arguments that begin with no command."""
        if args and args[0] not in self.commands and args[0] not in {"-h", "--help"}:
            args = ["apply", *args]
        return super().parse_args(ctx, args)


def pipeline(
    image: Annotated[
        str, typer.Option(envvar="TROIKA_TRAIN_IMAGE", help="Train image, by digest or by a tag never used twice.")
    ] = "troika-train:latest",
    light_image: LightImage = None,
    cluster: ClusterFile = CLUSTER,
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
    version = compile_pipeline(package, image, sections, resources, light_image)
    compile_manifests(manifests, version, namespace, image, sections, resources, light_image)
    typer.echo(version)
    typer.echo(f"  {package}: upload it in the Kubeflow UI under Pipelines, or use `troika submit`")
    typer.echo(f"  {manifests}: Pipeline and PipelineVersion, for Git")


def submit(
    host: Host,
    image: Image,
    store: Store,
    release_remote: Remote,
    to: Environment,
    light_image: LightImage = None,
    namespace: Namespace = "kubeflow",
    service_account: ServiceAccount = None,
    experiment: Experiment = "troika",
    cluster: ClusterFile = CLUSTER,
    changes: Changes = None,
    params: ParamsFile = PARAMS,
    follow: Annotated[bool, typer.Option(help="Tell each step's state until the end.")] = True,
    fresh: Annotated[bool, typer.Option("--fresh", help="Take no step's result from the cache.")] = False,
    retry: Retry = True,
    token_file: TokenFile = None,
    ca: Authority = None,
    patience: Patience = _MINUTES,
) -> None:
    """Upload the pipeline to Kubeflow if it is new there, start a run and follow it.

    `--set` changes values of this run alone: a version is code, image and parameter file. Exit status 1: the run
    failed, or was not started; 3: it was started, but its state could not be read any more (`troika follow`); 130:
    interrupted, the run goes on.
    """
    from tempfile import TemporaryDirectory

    from pipelines.arguments import check_arguments, inputs_of, retries_of
    from pipelines.cluster import read_cluster
    from pipelines.compile import compile_pipeline
    from pipelines.graph import PIPELINE_NAME

    arguments = {
        **_arguments(params, changes),
        "store": store,
        "release_remote": release_remote,
        "environment": to,
    }
    with TemporaryDirectory(prefix="troika-submit-") as scratch:
        package = Path(scratch) / "pipeline.yaml"
        sections = read_parameters(params, None, {})
        name = compile_pipeline(package, image, sections, read_cluster(cluster), light_image)
        specification = read_first(package)
        check_arguments(arguments, "the run", inputs_of(specification))
        kubeflow = _kubeflow(host, namespace, service_account, token_file, ca, patience)
        kubeflow.connection.check_version(package, typer.echo)
        version = kubeflow.upload(package, name, PIPELINE_NAME)
        typer.echo(_told(version))
        run_id = kubeflow.start(version, arguments, experiment, package if fresh else None)
    typer.echo(kubeflow.link(run_id))
    if follow:
        _follow(kubeflow, run_id, retries_of(specification), retry=retry)


def follow(
    run: Annotated[str, typer.Argument(help="Id of the run: the end of its page's URL.")],
    host: Host,
    namespace: Namespace = "kubeflow",
    retry: Retry = True,
    token_file: TokenFile = None,
    ca: Authority = None,
    patience: Patience = _MINUTES,
) -> None:
    """Follow a run that was started before, until its end.

    Exit status 1: the run failed, or there is none; 3: its state could not be read; 130: interrupted, the run goes
    on.
    """
    from pipelines.connection import KubeflowError, LostSightError

    run_id = run.rstrip("/").rpartition("/")[2]
    if not run_id.strip("."):
        raise ParameterError(f"{run!r} is no id of a run; it is the end of the URL of the run's page")
    try:
        kubeflow = _kubeflow(host, namespace, None, token_file, ca, patience)
    except KubeflowError as error:
        raise LostSightError(f"the run's state cannot be read: {error}") from None
    _follow(kubeflow, run_id, None, retry=retry)


def sweep(
    space: Annotated[Path, typer.Argument(help="YAML file: algorithm, trials, objective, parameters.")],
    image: Annotated[
        str, typer.Option(envvar="TROIKA_TRAIN_IMAGE", help="Train image, by digest or by a tag never used twice.")
    ] = "troika-train:latest",
    light_image: LightImage = None,
    cluster: ClusterFile = CLUSTER,
    out: Annotated[Path, typer.Option(help="Package to write.")] = Path("build/sweep.yaml"),
    changes: Changes = None,
    params: ParamsFile = PARAMS,
    start: Annotated[bool, typer.Option("--submit", help="Start it on Kubeflow, too, and follow it.")] = False,
    host: Annotated[
        str | None, typer.Option(envvar="TROIKA_KUBEFLOW", help="URL of Kubeflow Pipelines, for --submit.")
    ] = None,
    store: Annotated[str | None, typer.Option(envvar="TROIKA_STORE", help="See `troika submit`.")] = None,
    release_remote: Annotated[
        str | None, typer.Option(envvar="TROIKA_RELEASE_REMOTE", help="See `troika submit`.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", envvar="TROIKA_ENVIRONMENT", help="See `troika submit`.")
    ] = None,
    namespace: Namespace = "kubeflow",
    service_account: ServiceAccount = None,
    experiment: Experiment = "troika-sweeps",
    retry: Retry = True,
    token_file: TokenFile = None,
    ca: Authority = None,
    patience: Patience = _MINUTES,
) -> None:
    """Compile a search over parameters, whose winner is trained, judged and released, for Kubeflow.

    With --submit it is started and followed, and the table of its trials is printed; exit statuses are those of
    `troika submit`.
    """
    from pipelines.arguments import check_arguments, inputs_of, retries_of
    from pipelines.cluster import read_cluster
    from pipelines.sweep import PIPELINE_NAME, compile_sweep, read_sweep
    from pipelines.sweep_table import points_table, read_comparison, sweep_version

    facts = {"--host": host, "--store": store, "--release-remote": release_remote, "--to": to}
    if start and (missing := [option for option, value in facts.items() if not value]):
        raise ParameterError(f"--submit needs {', '.join(missing)}, too")
    searched = read_sweep(space)
    sections = read_parameters(params, changes, {})
    trials = compile_sweep(out, image, sections, searched, read_cluster(cluster), light_image)
    if not start:
        typer.echo(f"{out}: {trials} trials; upload it in the Kubeflow UI under Pipelines, or give --submit")
        return
    for line in points_table(searched.points()):
        typer.echo(line)
    arguments = {"store": store, "release_remote": release_remote, "environment": to}
    check_arguments(arguments, "the run", inputs_of(read_first(out)))
    kubeflow = _kubeflow(str(host), namespace, service_account, token_file, ca, patience)
    kubeflow.connection.check_version(out, typer.echo)
    version = kubeflow.upload(out, sweep_version(out), PIPELINE_NAME)
    typer.echo(_told(version))
    run_id = kubeflow.start(version, arguments, experiment)
    typer.echo(kubeflow.link(run_id))
    _follow(
        kubeflow,
        run_id,
        retries_of(read_first(out)),
        retry=retry,
        then=lambda run: read_comparison(namespace, run),
    )


def apply_recurring(
    declarations: Annotated[Path, typer.Argument(help="YAML file: name -> cron, arguments, enabled, version.")],
    host: Host,
    namespace: Namespace = "kubeflow",
    service_account: ServiceAccount = None,
    experiment: Experiment = "troika",
    token_file: TokenFile = None,
    ca: Authority = None,
    patience: Patience = _MINUTES,
) -> None:
    """Make Kubeflow's recurring runs of this pipeline those of a file.

    Each stays with one version of the pipeline: that of the file, or the one it has; a new one takes the newest.
    """
    from pipelines.recurring import read_recurring, reconcile

    declared = read_recurring(declarations)
    kubeflow = _kubeflow(host, namespace, service_account, token_file, ca, patience)
    reconcile(kubeflow, declared, experiment, typer.echo)


def promote_recurring(
    host: Host,
    version: Annotated[str | None, typer.Argument(help="Name of the version; default: the newest.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Move this recurring run alone; may be repeated.")] = None,
    namespace: Namespace = "kubeflow",
    service_account: ServiceAccount = None,
    experiment: Experiment = "troika",
    token_file: TokenFile = None,
    ca: Authority = None,
    patience: Patience = _MINUTES,
) -> None:
    """Move recurring runs to a version of the pipeline."""
    from pipelines.recurring import promote

    kubeflow = _kubeflow(host, namespace, service_account, token_file, ca, patience)
    promote(kubeflow, version, only or [], experiment, typer.echo)


def retry_recurring(
    host: Host,
    namespace: Namespace = "kubeflow",
    experiment: Experiment = "troika",
    token_file: TokenFile = None,
    ca: Authority = None,
    patience: Patience = _MINUTES,
) -> None:
    """Try the newest run of each recurring run once more if it failed by a lost pod; for a scheduler to call."""
    from pipelines.recurring import retry_recurring as retry

    retry(_kubeflow(host, namespace, None, token_file, ca, patience), experiment, typer.echo)


def read_first(package: Path) -> Mapping[str, Any]:
    """Return the pipeline's own document of a compiled package."""
    import yaml

    found: Mapping[str, Any] = next(iter(yaml.safe_load_all(package.read_text(encoding="utf-8"))))
    return found


def _arguments(params: Path, changes: list[str] | None) -> dict[str, Any]:
    """What `--set` changes, and the state of the data, as arguments of one run."""
    from pipelines.arguments import run_arguments
    from troika.params import parse_assignments

    changed = parse_assignments(changes or [])
    sections = read_parameters(params, changes, {})
    before = sections["prepare_data"]["version"]
    set_version(sections, files=False)
    arguments = run_arguments(changed)
    if sections["prepare_data"]["version"] != before:
        arguments["data_version"] = sections["prepare_data"]["version"]
    return arguments


def _kubeflow(
    host: str,
    namespace: str,
    service_account: str | None,
    token_file: Path | None,
    ca: Path | None,
    patience: float,
) -> "Kubeflow":
    from pipelines.submit import Kubeflow

    return Kubeflow(
        host,
        namespace,
        service_account,
        token_file=token_file,
        ca=ca,
        patience_seconds=patience * 60,
        say=typer.echo,
    )


def _told(version: Any) -> str:
    if version.new:
        return f"{version.name} uploaded"
    if version.newest == version.name:
        return f"{version.name} is there already, and is the newest"
    return f"{version.name} is there already; a newer one is {version.newest}"


def _follow(
    kubeflow: "Kubeflow",
    run_id: str,
    retries: Mapping[str, int] | None,
    *,
    retry: bool,
    then: Callable[[Any], list[str]] | None = None,
) -> None:
    from pipelines.follow import follow as watch

    try:
        run = watch(
            kubeflow.connection, run_id, typer.echo, link=kubeflow.link(run_id), retries=retries, retry=retry
        )
        for line in then(run) if then is not None else []:
            typer.echo(line)
    except KeyboardInterrupt:
        typer.echo(f"\nno longer followed; the run goes on: `troika follow {run_id}`", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    typer.echo("succeeded")
