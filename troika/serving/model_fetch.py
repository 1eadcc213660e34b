"""What runs before Triton in a pod: fetch one bundle by its digest, check every byte, or fail.

    python -m troika.serving.model_fetch
        --store s3://models --model digits --digest sha256:... --target /models/bundle

Each option can be given by an environment variable too, as its help says. Does not start Triton.
"""

from pathlib import Path
from typing import Annotated

import typer

from troika.errors import BundleError, TroikaError
from troika.releases.bundle import Bundle
from troika.releases.store import MAX_BUNDLE_BYTES, fetch


def main(
    store: Annotated[str, typer.Option(envvar="TROIKA_STORE", help="URL of the model store.")],
    model: Annotated[str, typer.Option(envvar="TROIKA_MODEL", help="The model's name.")],
    digest: Annotated[str, typer.Option(envvar="TROIKA_DIGEST", help="sha256:<hex>, from release.yaml.")],
    target: Annotated[
        Path,
        typer.Option(
            envvar="TROIKA_TARGET",
            help="Folder to write, whole or not at all; in a volume, not the volume itself.",
        ),
    ],
    verify_key: Annotated[
        Path | None, typer.Option(envvar="TROIKA_VERIFY_KEY", help="PEM public key; only what it signed is taken.")
    ] = None,
    max_bytes: Annotated[
        int, typer.Option(envvar="TROIKA_MAX_BUNDLE_BYTES", min=1, help="The largest bundle that is taken.")
    ] = MAX_BUNDLE_BYTES,
) -> None:
    """Fetch a bundle and check every byte of it. Exit status 1: it must not be served; nothing is left."""
    try:
        if verify_key is None and _is_there(target, digest):
            typer.echo(f"{model} {digest} is in {target} already")
            return
        bundle = fetch(store, model, digest, target, max_bytes, verify_key)
        typer.echo(f"{bundle.model} {bundle.digest} fetched from {store} into {target}")
    except TroikaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def _is_there(target: Path, digest: str) -> bool:
    try:
        Bundle.open(target, digest)
    except BundleError:
        return False
    return True


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
