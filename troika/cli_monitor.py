"""The command that watches the local server: a part of the `troika` command."""
# ruff: noqa: PLC0415

from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[Path, typer.Option(envvar="TROIKA_HOME", help="Folder that `troika serve` was given.")]
_HOME, _RULES = Path(".troika"), Path("manifests/monitoring/rules")


def monitor(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of Prometheus. 0: a free one.")] = 0,
    interval: Annotated[float, typer.Option(min=1, help="Seconds from one round of the probe to the next.")] = 5.0,
    images: Annotated[int, typer.Option(min=1, help="Fresh images in a round.")] = 32,
    rules: Annotated[Path, typer.Option(help="Folder of the PrometheusRules.")] = _RULES,
    prometheus: Annotated[Path | None, typer.Option(help="Program; default: the one on PATH.")] = None,
    home: Home = _HOME,
) -> None:
    """Watch the running server with a real Prometheus, the probe and a cluster's rules, until Ctrl-C."""
    from threading import Event

    from troika import monitor as watching
    from troika.releases import local
    from troika.serving.triton import stop_on_signals

    stopped = Event()
    with stop_on_signals():
        try:
            watching.monitor(
                home / "server.json",
                local.release_remote(home),
                local.environment(),
                rules,
                home / "monitor",
                typer.echo,
                stopped,
                port=port,
                interval=interval,
                images=images,
                program=prometheus,
            )
        except KeyboardInterrupt:
            typer.echo("\nstopping")
