"""One world for all tests of monitoring, and a real Triton on its model."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from quick import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests" / "monitoring"))

from promtool import program, promtool_3
from worlds import World, make_world

from troika.serving.triton import TritonServer


@pytest.fixture(scope="session", params=["Debian's", "Prometheus 3"])
def promtool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str | Path:
    """Each promtool in turn: from Prometheus 3 on, ranges leave out their older end."""
    return program("promtool") if request.param == "Debian's" else promtool_3(tmp_path_factory.mktemp("promtool"))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def triton(world: World) -> Iterator[TritonServer]:
    with TritonServer(world.bundle.folder, exit_seconds=0) as server:
        yield server
