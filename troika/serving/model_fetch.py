"""What runs before Triton in a pod: fetch one bundle by its digest, check every byte, or fail.

    python -m troika.serving.model_fetch
        --store s3://models --model digits --digest sha256:... --target /models/bundle

Each option can be given by an environment variable too, as its help says. Does not start Triton.
"""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from troika.errors import BundleError, TroikaError
from troika.releases.bundle import Bundle
from troika.releases.keys import check_key_file, key_file
from troika.releases.store import MAX_BUNDLE_BYTES, fetch

VerifyKey = Annotated[
    str | None, typer.Option(help="PEM public key; only what it signed is taken. Default: TROIKA_VERIFY_KEY.")
]


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
    verify_key: VerifyKey = None,
    max_bytes: Annotated[
        int, typer.Option(envvar="TROIKA_MAX_BUNDLE_BYTES", min=1, help="The largest bundle that is taken.")
    ] = MAX_BUNDLE_BYTES,
) -> None:
    """Fetch a bundle and check every byte of it. Exit status 1: it must not be served; nothing is left."""
    try:
        fetch_model(store, model, digest, target, verify_key_of(verify_key), max_bytes)
    except TroikaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def verify_key_of(option: str | None) -> Path | None:
    """Return the public key of the command's option or of TROIKA_VERIFY_KEY, which may not be empty; None: no key.

    Raises:
        ParameterError: it is empty, or no file.
    """
    return key_file("TROIKA_VERIFY_KEY") if option is None else check_key_file(option, "--verify-key")


def fetch_model(
    store: str,
    model: str,
    digest: str,
    target: Path,
    verify_key: Path | None = None,
    max_bytes: int = MAX_BUNDLE_BYTES,
) -> None:
    """Fetch a bundle unless it is there, whole and right, as after a restart of its container; says which.

    Args:
        store: URL of the model store.
        model: the model's name.
        digest: sha256:<hex>.
        target: folder to write, whole or not at all.
        verify_key: PEM public key. With it, the bundle is fetched anew: the signature is in the store.
        max_bytes: the largest bundle that is taken.

    Raises:
        StoreError: see `troika.releases.store.fetch`.
    """
    if verify_key is None:
        with suppress(BundleError):
            Bundle.open(target, digest)
            print(f"{model} {digest} is in {target} already", flush=True)
            return
    bundle = fetch(store, model, digest, target, max_bytes, verify_key)
    print(f"{bundle.model} {bundle.digest} fetched from {store} into {target}", flush=True)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
