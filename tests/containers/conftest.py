"""An engine and images for all container tests, built once from the Dockerfiles that people use."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from containers_engine import COMMIT, base_image, builder_image, engine, run
from quick import REPOSITORY


@pytest.fixture(scope="session")
def host() -> Iterator[str]:
    with engine() as address:
        yield address


@pytest.fixture(scope="session")
def train_image(host: str) -> str:
    base = base_image(host)
    builder = builder_image(host, base, "troika-test-builder:1")
    run(
        host, "build", "--network=host", "--file", REPOSITORY / "Dockerfile.train", "--tag", "troika-train:test",
        "--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"BUILD_IMAGE={builder}",
        "--build-arg", "FIND_LINKS=/wheels", "--build-arg", f"CODE_COMMIT={COMMIT}", REPOSITORY,
    )  # fmt: skip
    return "troika-train:test"


@pytest.fixture(scope="session")
def light_image(host: str) -> str:
    base = base_image(host)
    builder = builder_image(host, base, "troika-test-builder:1")
    run(
        host, "build", "--network=host", "--file", REPOSITORY / "Dockerfile.light", "--tag", "troika-light:test",
        "--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"BUILD_IMAGE={builder}",
        "--build-arg", f"CODE_COMMIT={COMMIT}", REPOSITORY,
    )  # fmt: skip
    return "troika-light:test"


@pytest.fixture(scope="session")
def serve_image(host: str) -> str:
    base = base_image(host)
    builder = builder_image(host, base, "troika-test-builder:1")
    triton = "troika-test-triton:1"
    here = Path(__file__).parent
    run(
        host, "build", "--network=host", "--file", here / "Dockerfile.triton", "--tag", triton,
        "--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"BUILD_IMAGE={builder}", here,
    )  # fmt: skip
    builder = builder_image(host, triton, "troika-test-triton-builder:1")
    run(
        host, "build", "--network=host", "--file", REPOSITORY / "Dockerfile.serve", "--tag", "troika-serve:test",
        "--build-arg", f"TRITON_IMAGE={triton}", "--build-arg", f"BUILD_IMAGE={builder}",
        "--build-arg", "ALLOW_OLD_TRITON=true",
        "--build-arg", f"CODE_COMMIT={COMMIT}", REPOSITORY,
    )  # fmt: skip
    return "troika-serve:test"


@pytest.fixture(scope="session")
def front_image(host: str) -> str:
    base = builder_image(host, base_image(host), "troika-test-builder:1")  # where packages can be had from
    run(
        host, "build", "--network=host", "--file", REPOSITORY / "Dockerfile.front", "--tag", "troika-front:test",
        "--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"CODE_COMMIT={COMMIT}", REPOSITORY,
    )  # fmt: skip
    return "troika-front:test"


@pytest.fixture(scope="session")
def probe_image(host: str) -> str:
    base = base_image(host)
    builder = builder_image(host, base, "troika-test-builder:1")
    run(
        host, "build", "--network=host", "--file", REPOSITORY / "Dockerfile.probe", "--tag", "troika-probe:test",
        "--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"BUILD_IMAGE={builder}",
        "--build-arg", f"CODE_COMMIT={COMMIT}", REPOSITORY,
    )  # fmt: skip
    return "troika-probe:test"
