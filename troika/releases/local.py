"""Where a laptop keeps what a company keeps in object storage and on a Git server."""

import os
from pathlib import Path

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


def environment() -> str:
    """`TROIKA_ENVIRONMENT`, or `local`: the overlay whose release.yaml is written or followed."""
    return os.environ.get("TROIKA_ENVIRONMENT") or "local"
