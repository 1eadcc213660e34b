"""The `troika` command: the outermost layer. Each command imports what it needs when it is called."""
# ruff: noqa: PLC0415

import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from troika import __version__, cli_kubeflow, cli_monitor, cli_releases
from troika.cli_data import DatasetPath, ModelName, Previous, Repo, Rev, data_changes, environment, set_version
from troika.cli_parameters import PARAMS, Changes, ParamsFile, read_parameters
from troika.errors import TroikaError, install_hint

app = typer.Typer(
    help="Train, judge, release and serve generative models.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"troika {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Train, judge, release and serve generative models."""


class Protocol(StrEnum):
    """How to talk to Triton."""

    grpc = "grpc"
    http = "http"


Home = Annotated[
    Path,
    typer.Option(
        envvar="TROIKA_HOME", help="Folder for runs, caches, the local model store and the local Git remote."
    ),
]
_HOME = Path(".troika")
_STATE_FILE = "server.json"
_PORTS = (8000, 8001, 8002)
"""Triton's own for HTTP, gRPC and metrics, which every example names."""
_SNIPPET = """\
    from troika.serving.client import Client

    with Client("127.0.0.1:{port}", model="{model}") as client:
        made = client.generate(20, seed=0)
    print(made.images.shape, made.model_digest)
"""
_PICTURE_COLUMNS, _PICTURE_COUNT = 10, 100
_EXTRAS = {
    module: extra
    for extra, modules in {
        "client": ("PIL", "grpc", "httpcore", "prometheus_client", "tritonclient"),
        "store": ("OpenSSL", "fsspec", "gcsfs", "model_signing", "s3fs"),
        "serve": ("filelock", "onnxruntime", "psutil", "pytriton"),
        "probe": ("scipy", "threadpoolctl"),
        "pipeline": ("docker", "kfp", "kubernetes"),
        "train": ("dvc", "jinja2", "onnx", "safetensors", "simplejpeg", "sklearn", "tensorboardX", "tqdm"),
    }.items()
    for module in modules
}
"""Module -> the part of the package that brings it."""


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Print a TroikaError, or what a part that is not installed lacks, as one message, and exit with its status.

    Anything else is a bug and stays a traceback.
    """
    try:
        yield
    except TroikaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_status) from None
    except ModuleNotFoundError as error:
        # Of our own packages the wheel holds `troika` alone; the steps and the pipeline lie in the repository.
        package = (error.name or "").split(".")[0]
        if package in {"components", "pipelines"}:
            needs = "a checkout of Troika: run it there"
        elif package in _EXTRAS:
            needs = f"{package}, which is not installed: {install_hint(_EXTRAS[package])}"
        else:
            raise
        typer.echo(f"error: this command needs {needs}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("\nstopped; the same command goes on where this one was", err=True)
        raise typer.Exit(130) from None


@app.command(epilog="Examples:  troika run  |  troika run --preset article  |  troika run --set train.steps=2000")
def run(
    preset: Annotated[str | None, typer.Option(help="Training preset.")] = None,
    framework: Annotated[str | None, typer.Option(help="What trains it: pytorch or tensorflow.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of training.")] = None,
    dataset: DatasetPath = None,
    repo: Repo = None,
    rev: Rev = None,
    previous: Previous = None,
    model: ModelName = None,
    replace: cli_releases.Replace = False,
    changes: Changes = None,
    params: ParamsFile = PARAMS,
    output: Annotated[Path, typer.Option(help="Folder for the picture and the reports.")] = Path("output"),
    home: Home = _HOME,
    image: Annotated[
        str | None, typer.Option(help="Run the steps in containers of this train image, with Docker.")
    ] = None,
    light_image: Annotated[
        str | None, typer.Option(help="Image of those that train and judge nothing; default: the train image.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run unchanged steps again, too.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all, read the data, say what training would need, and stop.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Kubeflow's own log, too.")] = False,
) -> None:
    """Do the whole job: data, training, judgement, release, and images from a real Triton.

    Options that are left out have the values of the parameter file. Exit status 1: a step failed, or the model was
    not approved and so not released.
    """
    with _clear_errors():
        from pipelines.local import run_locally
        from troika.folders import check_writable
        from troika.releases import local
        from troika.releases.pointer import check_name, read_release

        started = time.monotonic()
        form = {"framework": framework, "preset": preset, "steps": steps, "seed": seed}
        if replace:
            changes = [*(changes or []), "release_model.replace=true"]
        given = [*data_changes(dataset, repo, rev, previous, model), *(changes or [])]
        sections = read_parameters(params, given, {k: v for k, v in form.items() if v is not None})
        set_version(sections, files=True)
        if light_image is not None and image is None:
            raise TroikaError("--light-image: goes with --image, which the other steps run in")
        if dry_run:
            from pipelines.dry_run import run_dry

            if image is not None:
                raise TroikaError("--dry-run: looks at this machine, not into a container; leave out --image")
            run_dry(sections)
            return
        check_writable(home, "--home")
        check_writable(output, "--output")
        for product in _PRODUCTS:
            (output / product).unlink(missing_ok=True)
        remote, released_to = local.release_remote(home), environment(dataset, repo)
        facts = {"store": local.store_url(home), "release_remote": remote, "environment": released_to}
        # Whether releases can be read is better known before training; which is the one to beat is read after it.
        current = read_release(remote, released_to, sections["find_champion"]["branch"])
        name = sections["export_model"]["model_name"]
        check_name(released_to, current, name, replace=sections["release_model"]["replace"])
        finished = run_locally(
            home, sections, facts, fresh=fresh, verbose=verbose, image=image, light_image=light_image
        )
        shutil.copyfile(finished.data_report, output / "data.html")
        shutil.copyfile(finished.training_report, output / "training.html")
        shutil.copyfile(finished.evaluation_report, output / "evaluation.html")
        if finished.reused:
            typer.echo(f"unchanged, not run again: {', '.join(finished.reused)}")
        if finished.decision != "promote":
            raise TroikaError(
                f"the verdict on this model is {finished.decision!r}: it was not published and not released.\n"
                f"Figures and pictures: {output / 'evaluation.html'}"
            )
        typer.echo("serve")
        _serve_and_draw(home, remote, released_to, output / "samples.png")
        typer.echo(f"\ndone in {time.monotonic() - started:.0f} s; look at")
        for name, what in _PRODUCTS.items():
            typer.echo(f"  {(output / name)!s:<24} {what}")
        if released_to != local.environment():
            typer.echo(f"Released to environment {released_to}: TROIKA_ENVIRONMENT={released_to} troika serve")


_PRODUCTS = {
    "samples.png": "images that Triton made of the released model",
    "evaluation.html": "the verdict and its figures",
    "training.html": "samples and losses while training",
    "data.html": "the data set",
}


@app.command(epilog="Examples:  troika serve  |  troika serve --http-port 8000 --grpc-port 8001")
def serve(
    http_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0: a free one; default: 8000, or a free one if taken.")
    ] = None,
    grpc_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Likewise; default: 8001.")] = None,
    metrics_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Likewise; default: 8002.")] = None,
    front: Annotated[
        bool, typer.Option("--front", help="Put HAProxy before Triton, as in a cluster: docs/serving-safety.md.")
    ] = False,
    home: Home = _HOME,
) -> None:
    """Serve the released model with Triton, until Ctrl-C."""
    with _clear_errors():
        from troika.releases import local
        from troika.serving.triton import serve_release, stop_on_signals
        from troika.serving.triton_process import free_or
        from troika.serving.triton_version import complaint

        http_port, grpc_port, metrics_port = (
            free_or(default, 0) if asked is None else asked
            for asked, default in zip((http_port, grpc_port, metrics_port), _PORTS, strict=True)
        )
        server = serve_release(
            local.release_remote(home),
            local.environment(),
            home / "serving",
            public_key=local.verify_key(),
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            front=front,
            state_file=home / _STATE_FILE,
            log_file=home / "triton.log",
        )
        with stop_on_signals(), server:
            state = server.state
            typer.echo(f"{state.model} {state.digest}")
            typer.echo(f"  HTTP     127.0.0.1:{state.http_port}")
            typer.echo(f"  gRPC     127.0.0.1:{state.grpc_port}")
            typer.echo(f"  metrics  http://127.0.0.1:{state.metrics_port}/metrics")
            typer.echo(f"  log      {state.log}")
            if not front and (wrong := complaint(server.triton_version)):
                typer.echo(f"warning: {wrong}; --front refuses such requests", err=True)
            typer.echo(f"ready after {server.seconds_to_ready:.1f} s; Ctrl-C stops it. From Python:\n")
            typer.echo(_SNIPPET.format(port=state.grpc_port, model=state.model))
            try:
                server.wait()
            except KeyboardInterrupt:
                typer.echo("\nstopping")


@app.command(
    epilog="Examples:  troika generate  |  troika generate -n 20 --label 7 --seed 100 --out sevens.png  |  "
    "troika generate --label cat"
)
def generate(
    count: Annotated[int, typer.Option("--count", "-n", help="Number of images.")] = _PICTURE_COUNT,
    seed: Annotated[int, typer.Option(help="Image i is drawn with seed + i.")] = 0,
    label: Annotated[
        str | None, typer.Option(help="Class of all images, by name or number; default: all in turn.")
    ] = None,
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("output/generated.png"),
    columns: Annotated[int, typer.Option(min=1, help="Images in a row of the picture.")] = _PICTURE_COLUMNS,
    url: Annotated[
        str | None, typer.Option(help="HOST:PORT of a server; default: that of `troika serve`.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model's name; needed with --url.")] = None,
    protocol: Annotated[Protocol, typer.Option(help="Must fit the port.")] = Protocol.grpc,
    timeout: Annotated[float, typer.Option(help="Seconds for a request.")] = 30.0,
    home: Home = _HOME,
) -> None:
    """Ask a running server for images and save them as one picture."""
    with _clear_errors():
        from troika.serving.client import Client

        if url is None:
            from troika.serving.triton import read_state

            state = read_state(home / _STATE_FILE)
            if state is None:
                raise TroikaError("no server is running here: start `troika serve`, or name one with --url")
            url = f"127.0.0.1:{state.grpc_port if protocol is Protocol.grpc else state.http_port}"
            model = state.model
        with Client(url, protocol=protocol.value, timeout=timeout, model=model) as client:
            digest = _draw(client, count, seed, label, columns, out)
        typer.echo(f"{count} images of {digest}: {out}")


@app.command(epilog="Examples:  troika doctor  |  troika doctor --kubeflow http://localhost:8080")
def doctor(
    kubeflow: Annotated[str | None, typer.Option(help="URL of Kubeflow Pipelines to look at, too.")] = None,
    namespace: cli_kubeflow.Namespace = "kubeflow",
    cluster: cli_kubeflow.ClusterFile = cli_kubeflow.CLUSTER,
    token_file: cli_kubeflow.TokenFile = None,
    ca: cli_kubeflow.Authority = None,
    triton: Annotated[str | None, typer.Option(help="HOST:PORT of a Triton's HTTP side to look at, too.")] = None,
    branch: Annotated[str, typer.Option(help="Of the release repository.")] = "main",
    home: Home = _HOME,
) -> None:
    """Look at all that a run needs, and say how to mend what is wrong. Exit status 1: something is."""
    with _clear_errors():
        from itertools import chain

        from troika.doctor import Surroundings, examine
        from troika.doctor_kubeflow import Cluster, Finding
        from troika.releases import local

        repository = Path.cwd() if Path(".dvc").is_dir() else None
        findings: list[Finding] = []
        remote = None
        try:
            remote = local.release_remote(home)
        except TroikaError as error:
            findings.append(Finding("fail", "release repository", str(error), "set TROIKA_RELEASE_REMOTE"))
        looked_at = None
        if kubeflow is not None:
            from pipelines.cluster import read_cluster

            claim = read_cluster(cluster).training_state if cluster.exists() else None
            looked_at = Cluster(kubeflow, namespace, claim, token_file, ca)
        where = Surroundings(local.store_url(home), remote, branch, looked_at, triton, repository)
        failed = False
        for finding in chain(findings, examine(where)):
            failed |= finding.outcome == "fail"
            typer.echo(f"{finding.outcome:<5} {finding.name:<19} {finding.said}")
            if finding.mend:
                typer.echo(f"{'':<25} {finding.mend}")
        raise typer.Exit(int(failed))


def _add(command: Callable[..., None], example: str, group: typer.Typer = app, name: str | None = None) -> None:
    """Take a command over from another module, with this one's way of telling errors."""

    @wraps(command)
    def told(*arguments: Any, **options: Any) -> None:
        with _clear_errors():
            command(*arguments, **options)

    group.command(name, epilog=example)(told)


_add(cli_monitor.monitor, "Examples:  troika monitor  |  troika monitor --port 9090 --interval 15")
_add(
    cli_kubeflow.pipeline,
    "Example:  troika pipeline --image registry.example/troika-train@sha256:...",
)
_add(
    cli_kubeflow.submit,
    "Example:  troika submit --host http://localhost:8080 --image NAME@sha256:... --store s3://models "
    "--release-remote git@git.example:platform/deployments.git --to staging --set train.steps=12000",
)
_add(
    cli_kubeflow.sweep,
    "Example:  troika sweep pipelines/sweep.yaml --image registry.example/troika-train@sha256:... --submit",
)
_add(cli_kubeflow.follow, "Example:  troika follow 00f630d2-e915-46e6-bc56-60f48b5c5cf4")
recurring = typer.Typer(cls=cli_kubeflow.AppliesByDefault, help="Keep recurring runs as a file declares them.")
app.add_typer(recurring, name="recurring")
_add(
    cli_kubeflow.apply_recurring,
    "Example:  troika recurring recurring.yaml --host http://localhost:8080",
    recurring,
    "apply",
)
_add(
    cli_kubeflow.promote_recurring,
    "Examples:  troika recurring promote  |  troika recurring promote troika-train-and-release-ee0d3fb151f6",
    recurring,
    "promote",
)
_add(cli_kubeflow.retry_recurring, "Example:  troika recurring retry", recurring, "retry")
_add(
    cli_releases.release,
    "Examples:  troika release 3f4dee2a6833 --to staging  |  troika release --from staging --to production",
)
_add(
    cli_releases.rollback,
    "Examples:  troika rollback --to production  |  troika rollback --to production --version 4",
)
_add(cli_releases.releases, "Examples:  troika releases  |  troika releases --to production -n 5 --json")
_add(cli_releases.verify, "Example:  troika verify --to production --server 10.0.0.7:8001 --server 10.0.0.8:8001")
_add(cli_releases.gc, "Examples:  troika gc  |  troika gc --older-than 30 --keep digits@sha256:... --yes")


def _serve_and_draw(home: Path, remote: str, environment: str, picture: Path) -> None:
    from troika.releases import local
    from troika.serving.client import Client
    from troika.serving.triton import serve_release, stop_on_signals

    server = serve_release(
        remote,
        environment,
        home / "serving",
        public_key=local.verify_key(),
        log_file=home / "triton-run.log",
        exit_seconds=0,
    )
    with stop_on_signals(), server:
        typer.echo(f"  Triton serves {server.state.digest}, ready after {server.seconds_to_ready:.1f} s")
        with Client(f"127.0.0.1:{server.state.grpc_port}", model=server.state.model) as client:
            _draw(client, _PICTURE_COUNT, 0, None, _PICTURE_COLUMNS, picture)
        typer.echo(f"  {_PICTURE_COUNT} images over gRPC")


def _label(classes: tuple[str, ...], text: str | None) -> int | str | None:
    """Return a class as given on the command line: its name, or its number where no name is a number."""
    if text is None or text in classes or any(name.isdecimal() for name in classes):
        return text
    return int(text) if re.fullmatch(r"-?\d+", text, re.ASCII) else text


def _scale(side: int) -> int:
    """Return by how much images of `side` pixels are enlarged in a picture: to 48 pixels at least."""
    return math.ceil(48 / side)


def _draw(client: Any, count: int, seed: int, label: str | None, columns: int, out: Path) -> str:
    from troika.pictures import grid, save_png

    made = client.generate(count, seed=seed, labels=_label(client.model.classes, label))
    save_png(grid(made.images, columns=columns, scale=_scale(made.images.shape[1])), out)
    digest: str = made.model_digest
    return digest


if __name__ == "__main__":
    app()
