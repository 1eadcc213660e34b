"""A container engine for tests, started here where none runs, and base images made without a registry."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from quick import REPOSITORY

COMMIT = subprocess.run(
    ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, check=True, capture_output=True, text=True
).stdout.strip()
# Kept between test runs, so that only what has changed is built anew.
STATE = REPOSITORY / ".troika" / "containers"
PACKAGES = "ca-certificates,git,libpython3.11,openssh-client,python3.11,python3.11-venv,python3-venv"


def _answers(host: str) -> bool:
    # By the command: the SDK leaves sockets open where nothing listens.
    return shutil.which("docker") is not None and run(host, "version", check=False).returncode == 0


def unavailable(reason: str) -> None:
    """Skip, but never in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must run the container tests: {reason}")
    pytest.skip(reason)


_started: list[str] = []
"""Addresses of engines that this process has started and that still run: two cannot share one folder."""


@contextmanager
def engine() -> Iterator[str]:
    """Yield the address of a Docker engine: one that runs, else one that is started and ends with the block."""
    for host in (*_started, os.environ.get("DOCKER_HOST"), "unix:///var/run/docker.sock"):
        if host and _answers(host):
            yield host
            return
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        unavailable("no container engine runs, and dockerd cannot be started here (Debian: docker.io; as root)")
    # A Unix socket's path may have 107 characters at most.
    run = Path(tempfile.mkdtemp(prefix="troika-engine-"))
    host = f"unix://{run}/docker.sock"
    STATE.mkdir(parents=True, exist_ok=True)
    with (run / "log").open("w") as log:
        daemon = subprocess.Popen(
            [
                "dockerd", f"--host={host}", f"--data-root={STATE}", f"--exec-root={run}/exec",
                f"--pidfile={run}/pid", "--iptables=false", "--ip6tables=false", "--bridge=none",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while not _answers(host):
                if daemon.poll() is not None or time.monotonic() > deadline:
                    unavailable(f"dockerd does not start: {(run / 'log').read_text()[-2000:]}")
                time.sleep(0.2)
            _started.append(host)
            yield host
        finally:
            if host in _started:
                _started.remove(host)
            daemon.terminate()
            daemon.wait(timeout=60)
    shutil.rmtree(run, ignore_errors=True)


def run(
    host: str, *command: str | Path, check: bool = True, timeout: float = 900
) -> subprocess.CompletedProcess[str]:
    """A `docker` command; its output is in the error if it fails."""
    environment = {**os.environ, "DOCKER_HOST": host, "DOCKER_BUILDKIT": "0"}
    done = subprocess.run(
        ["docker", *map(str, command)],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done


def exists(host: str, image: str) -> bool:
    return run(host, "image", "inspect", image, check=False).returncode == 0


def base_image(host: str) -> str:
    """A plain Debian 12 with Python, made by mmdebstrap: what a registry's debian:bookworm-slim would be."""
    name = "troika-test-base:2"
    if exists(host, name):
        return name
    if not shutil.which("mmdebstrap"):
        unavailable("mmdebstrap is not installed (Debian package mmdebstrap)")
    with tempfile.TemporaryDirectory(prefix="troika-base-") as scratch:
        archive = Path(scratch) / "root.tar"
        without = [f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ("doc", "man", "locale")]
        done = subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", *without,
             "bookworm", archive, "http://deb.debian.org/debian"],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        run(host, "import", archive, name)
    return name


def builder_image(host: str, base: str, name: str) -> str:
    """`base` with what this machine needs to reach its package indexes: certificates, and wheels that lie here."""
    with tempfile.TemporaryDirectory(prefix="troika-builder-") as scratch:
        folder = Path(scratch)
        (folder / "wheels").mkdir()
        for wheel in Path(os.environ.get("PIP_FIND_LINKS") or folder / "none").glob("torch-*.whl"):
            os.link(wheel, folder / "wheels" / wheel.name) if _same_disk(wheel, folder) else shutil.copy(
                wheel, folder / "wheels"
            )
        bundle = os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt"
        shutil.copy(bundle, folder / "certificates.crt")
        (folder / "Dockerfile").write_text(
            f"FROM {base}\nUSER root\nCOPY certificates.crt /certificates.crt\nCOPY wheels /wheels\n"
            "ENV SSL_CERT_FILE=/certificates.crt PIP_CERT=/certificates.crt\n"
        )
        run(host, "build", "--tag", name, folder)
    return name


def _same_disk(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def build_serve(host: str) -> str:
    """Build the image that serves, on a stand-in for NVIDIA's; its name."""
    base = base_image(host)
    builder = builder_image(host, base, "troika-test-builder:1")
    triton = "troika-test-triton:1"
    here = Path(__file__).parent / "containers"
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


def build_front(host: str) -> str:
    """Build the image of the front; its name."""
    base = builder_image(host, base_image(host), "troika-test-builder:1")  # where packages can be had from
    run(
        host, "build", "--network=host", "--file", REPOSITORY / "Dockerfile.front", "--tag", "troika-front:test",
        "--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"CODE_COMMIT={COMMIT}", REPOSITORY,
    )  # fmt: skip
    return "troika-front:test"
