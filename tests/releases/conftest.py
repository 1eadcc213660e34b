"""The production under fire, one for all tests of a process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from production import Production, Scene

from troika.releases.pointer import ensure_local_remote


@pytest.fixture(scope="session")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    with Production(tmp_path_factory.mktemp("production")) as running:
        yield running


@pytest.fixture
def scene(production: Production, tmp_path: Path) -> Iterator[Scene]:
    """A store and a Git remote to be damaged; afterwards the old release must have been served all the time."""
    with production.scenario(tmp_path / "scene") as made:
        yield made


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    return ensure_local_remote(tmp_path / "remote.git")
