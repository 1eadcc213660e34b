"""Where a laptop keeps what a company keeps in object storage and on a Git server."""

import os
from pathlib import Path

from troika.releases.keys import key_file
from troika.releases.pointer import ensure_local_remote

HOME = Path(".troika")


def home_folder() -> Path:
    """`TROIKA_HOME`, or `.troika` in the current folder."""
    return Path(os.environ.get("TROIKA_HOME") or HOME).resolve()


def store_url(home: Path | None = None) -> str:
    """`TROIKA_STORE`, or a folder in `home`."""
    return os.environ.get("TROIKA_STORE") or ((home or home_folder()).resolve() / "store").as_uri()


def release_remote(home: Path | None = None) -> str:
    """`TROIKA_RELEASE_REMOTE`, or a bare repository in `home`, which is made on first use."""
    given = os.environ.get("TROIKA_RELEASE_REMOTE")
    return given or str(ensure_local_remote((home or home_folder()).resolve() / "releases.git"))


def environment(default: str = "local") -> str:
    """`TROIKA_ENVIRONMENT`, or `default`: the overlay whose release.yaml is written or followed."""
    return os.environ.get("TROIKA_ENVIRONMENT") or default


def signing_key() -> Path | None:
    """`TROIKA_SIGNING_KEY`: PEM file to sign with what is published; None: nothing is signed."""
    return key_file("TROIKA_SIGNING_KEY")


def verify_key() -> Path | None:
    """`TROIKA_VERIFY_KEY`: PEM file of whose signature is asked for; None: none is asked for."""
    return key_file("TROIKA_VERIFY_KEY")
