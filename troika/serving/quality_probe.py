"""The quality probe: asks the live model for images at a low rate, and tells Prometheus what they are like.

    python -m troika.serving.quality_probe

Settings are environment variables, which `--help` lists. What it asks and measures: probe.py.
"""

import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import typer
from prometheus_client import CollectorRegistry, start_http_server

from troika.errors import ParameterError, TroikaError
from troika.serving.probe import QualityProbe, Target
from troika.serving.probe_metrics import ProbeMetrics
from troika.serving.promise import GitPromise, Promise, PromiseSource, SetPromise


def main(
    service: Annotated[
        str, typer.Option(envvar="TROIKA_PROBE_SERVICE", help="HOST:PORT (gRPC) as users know it.")
    ],
    replicas: Annotated[
        str | None,
        typer.Option(
            envvar="TROIKA_PROBE_REPLICAS", help="HOST:PORT that stands for all replicas; default: SERVICE."
        ),
    ] = None,
    environment: Annotated[str, typer.Option(envvar="TROIKA_ENVIRONMENT", help="Such as production.")] = "local",
    release_remote: Annotated[
        str | None,
        typer.Option(envvar="TROIKA_RELEASE_REMOTE", help="Git repository of releases; without, what follows."),
    ] = None,
    branch: Annotated[str, typer.Option(envvar="TROIKA_RELEASE_BRANCH", help="Its branch.")] = "main",
    model: Annotated[str | None, typer.Option(envvar="TROIKA_MODEL", help="What should be served.")] = None,
    digest: Annotated[str | None, typer.Option(envvar="TROIKA_DIGEST", help="sha256:<hex> of it.")] = None,
    version: Annotated[str, typer.Option(envvar="TROIKA_VERSION", help="Of the release.")] = "",
    store: Annotated[str | None, typer.Option(envvar="TROIKA_STORE", help="URL of the model store.")] = None,
    verdict: Annotated[str | None, typer.Option(envvar="TROIKA_VERDICT", help="sha256 of the verdict.")] = None,
    images: Annotated[
        int, typer.Option(envvar="TROIKA_PROBE_IMAGES", min=1, help="Fresh images in a round.")
    ] = 32,
    interval: Annotated[
        float, typer.Option(envvar="TROIKA_PROBE_SECONDS", min=0.1, help="From one round to the next.")
    ] = 15.0,
    release_seconds: Annotated[
        float,
        typer.Option(envvar="TROIKA_PROBE_RELEASE_SECONDS", min=0, help="How often Git and store are asked."),
    ] = 60.0,
    timeout: Annotated[float, typer.Option(envvar="TROIKA_PROBE_TIMEOUT", help="Seconds for a request.")] = 10.0,
    port: Annotated[int, typer.Option(envvar="TROIKA_METRICS_PORT", min=0, max=65535)] = 9102,
    address: Annotated[str, typer.Option(envvar="TROIKA_METRICS_ADDRESS", help="Where /metrics is.")] = "0.0.0.0",  # noqa: S104
    port_file: Annotated[Path | None, typer.Option(help="Written with the port when it is open.")] = None,
) -> None:
    """Watch one environment until SIGTERM."""
    try:
        if release_remote is not None:
            source: PromiseSource = GitPromise(release_remote, environment, branch)
        elif model and digest and store and verdict:
            source = SetPromise(Promise(environment, model, digest, version, store, verdict))
        else:
            raise ParameterError(
                "give TROIKA_RELEASE_REMOTE, or TROIKA_MODEL, TROIKA_DIGEST, TROIKA_STORE and TROIKA_VERDICT"
            )
        registry = CollectorRegistry()
        target = Target(service, replicas or service, timeout=timeout)
        probe = QualityProbe(target, source, ProbeMetrics(registry), images, release_seconds)
        try:
            server, _ = start_http_server(port, address, registry)
        except OSError as error:
            raise ParameterError(
                f"TROIKA_METRICS_PORT: {address}:{port} cannot be opened: {error.strerror}"
            ) from None
    except TroikaError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise typer.Exit(1) from None
    if port_file is not None:
        port_file.write_text(f"{server.server_port}\n")
    print(f"metrics: http://{address}:{server.server_port}/metrics", flush=True)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    watch(probe, interval, stop)
    server.shutdown()


def watch(probe: QualityProbe, interval: float, stop: threading.Event) -> None:
    """A round every `interval` seconds until `stop`."""
    while not stop.is_set():
        started = time.monotonic()
        probe.round()
        stop.wait(max(0.0, interval - (time.monotonic() - started)))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
