"""An engine and images for all container tests, built once from the Dockerfiles that people use."""

from collections.abc import Iterator

import pytest
from containers_engine import COMMIT, base_image, build_front, build_serve, builder_image, engine, run
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
    return build_serve(host)


@pytest.fixture(scope="session")
def front_image(host: str) -> str:
    return build_front(host)


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
