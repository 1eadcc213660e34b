"""All folders rendered once, and the schemas of custom resources, which lie outside the project."""

import copy
import os
from pathlib import Path

import check
import pytest
from rendering import MANIFESTS, Object, render_objects, roots


@pytest.fixture(scope="session")
def crds() -> Path:
    folder = os.environ.get(check.CRDS)
    if not folder:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must name the folder of the CRDs' schemas: {check.CRDS}")
        pytest.skip(f"{check.CRDS} names no folder of the CRDs' schemas")
    return Path(folder)


@pytest.fixture(scope="session")
def renders() -> dict[str, list[Object]]:
    return {folder.relative_to(MANIFESTS).as_posix(): render_objects(folder) for folder in roots()}


@pytest.fixture
def production(renders: dict[str, list[Object]]) -> list[Object]:
    """To be spoilt."""
    return copy.deepcopy(renders["serving/overlays/production"])
