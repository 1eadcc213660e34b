"""The serve image: hardened as in a pod, it serves a released model, and refuses one that was tampered with."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from containers_engine import run
from quick import REPOSITORY

from troika.releases.bundle import Bundle
from troika.releases.store import publish
from troika.serving.client import Client
from troika.serving.triton_process import answer, choose_ports

sys.path.insert(0, str(REPOSITORY / "tests" / "releases"))

from tiny_bundle import expected_images, tiny_bundle

pytestmark = pytest.mark.containers
HARDENED = (
    "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=10001:10001", "--network=host",
    "--tmpfs=/tmp:mode=1777", "--tmpfs=/models:mode=1777", "--shm-size=16m", "--pids-limit=512", "--memory=1g",
)  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("container") / "bundle")


@pytest.fixture
def store(bundle: Bundle, tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    publish(bundle, {"decision": "promote", "bundle_digest": bundle.digest}, folder)
    for path in (tmp_path, *tmp_path.parents[:2], *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


class Serving:
    """A container of the serve image."""

    def __init__(self, host: str, image: str, store: Path, bundle: Bundle, *options: str) -> None:
        self.host = host
        self.http, self.grpc, self.metrics = choose_ports((0, 0, 0))
        settings = {
            "TROIKA_STORE": "file:///store", "TROIKA_MODEL": bundle.model, "TROIKA_DIGEST": bundle.digest,
            "TROIKA_HTTP_PORT": self.http, "TROIKA_GRPC_PORT": self.grpc, "TROIKA_METRICS_PORT": self.metrics,
            "TROIKA_EXIT_SECONDS": 5,
        }  # fmt: skip
        variables = [f"--env={name}={value}" for name, value in settings.items()]
        self.name = run(
            host, "run", "--detach", *HARDENED, *options, f"--volume={store}:/store:ro", *variables, image
        ).stdout.strip()  # fmt: skip

    def log(self) -> str:
        done = run(self.host, "logs", self.name)
        return done.stdout + done.stderr

    def status(self) -> int | None:
        """Exit status, None while it runs."""
        state = json.loads(run(self.host, "inspect", "--format", "{{json .State}}", self.name).stdout)
        return None if state["Running"] else int(state["ExitCode"])

    def wait_for(self, what: str) -> None:
        deadline = time.monotonic() + 90
        while True:
            ready = answer(self.http, f"/v2/models/tiny/{what}") is not None if what == "ready" else False
            ended = self.status() is not None
            if (ready and what == "ready") or (ended and what == "end"):
                return
            assert not ended, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def processes(self) -> list[int]:
        """Pids of Triton's model processes, as this machine counts them."""
        rows = run(self.host, "top", self.name, "-eo", "pid,args").stdout.splitlines()
        return [int(row.split()[0]) for row in rows if "triton_python_backend_stub" in row]


@contextmanager
def serving(host: str, image: str, store: Path, bundle: Bundle, *options: str) -> Iterator[Serving]:
    container = Serving(host, image, store, bundle, *options)
    try:
        yield container
    finally:
        run(host, "rm", "--force", container.name)


def test_a_released_model_is_fetched_served_and_ended_in_peace(
    host: str, serve_image: str, store: Path, bundle: Bundle
) -> None:
    with serving(host, serve_image, store, bundle) as container:
        container.wait_for("ready")
        with Client(f"127.0.0.1:{container.grpc}", model="tiny") as client:
            made = client.generate(3, seed=7, labels=2)
        assert made.model_digest == bundle.digest
        assert (made.images == expected_images([7, 8, 9], [2, 2, 2])).all()
        assert b"nv_inference_request_success" in (answer(container.metrics, "/metrics") or b"")
        run(host, "stop", "--time=30", container.name)
        assert "every byte is as it was published" in container.log()
        assert container.status() == 128 + 15


def test_a_tampered_bundle_ends_the_container_before_triton_starts(
    host: str, serve_image: str, store: Path, bundle: Bundle
) -> None:
    (graph,) = store.rglob("model.onnx")
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with serving(host, serve_image, store, bundle) as container:
        container.wait_for("end")
        assert container.status() == 1
        assert "model.onnx" in container.log()
        assert "error: " in container.log()
        assert "Started GRPCInferenceService" not in container.log()
        assert "ready after" not in container.log()


def test_a_container_whose_model_process_was_killed_ends(
    host: str, serve_image: str, store: Path, bundle: Bundle
) -> None:
    """Triton would go on, call itself ready, and answer errors."""
    import os
    import signal

    with serving(host, serve_image, store, bundle) as container:
        container.wait_for("ready")
        os.kill(container.processes()[0], signal.SIGKILL)
        container.wait_for("end")
        assert container.status() == 1
        assert "has died" in container.log()


def test_a_folder_without_the_model_is_named(host: str, serve_image: str, store: Path, bundle: Bundle) -> None:
    with serving(host, serve_image, store, bundle, "--env=TROIKA_TARGET=/nowhere/bundle") as container:
        container.wait_for("end")
        assert container.status() == 1
        assert "/nowhere" in container.log()
        assert "Traceback" not in container.log()


def test_the_image_holds_neither_training_nor_its_packages(host: str, serve_image: str) -> None:
    code = (
        "import importlib.util as u, json;"
        "print(json.dumps([n for n in ('torch', 'tensorflow', 'kfp', 'dvc', 'sklearn', 'troika.models',"
        " 'troika.quality', 'components', 'pipelines') if u.find_spec(n)]))"
    )
    done = run(host, "run", "--rm", *HARDENED, "--entrypoint=python", serve_image, "-c", code)
    assert json.loads(done.stdout) == []
