"""The schemas of custom resources, which lie outside the project."""

import os
from pathlib import Path

import check
import pytest


@pytest.fixture(scope="session")
def crds() -> Path:
    folder = os.environ.get(check.CRDS)
    if not folder:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must name the folder of the CRDs' schemas: {check.CRDS}")
        pytest.skip(f"{check.CRDS} names no folder of the CRDs' schemas")
    return Path(folder)
