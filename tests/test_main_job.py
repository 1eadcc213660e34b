"""The main job as it is, from real digits to images out of a real Triton, judged by a classifier of its own.

The negative control, a generator of noise, is in pipelines/test_local_runs.py.
"""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from quick import REPOSITORY, plain_environment
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from troika.releases.pointer import read_release
from troika.serving.client import Client, Generated
from troika.serving.triton import ServerState, read_state

DEADLINE_SECONDS = 60


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "troika.cli", *map(str, arguments)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run with the parameters as they are has been done."""
    folder = tmp_path_factory.mktemp("main-job")
    finished = subprocess.run(
        command("run", "--home", folder, "--output", folder / "output"),
        cwd=REPOSITORY,
        env=plain_environment(),
        check=False,
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[ServerState]:
    """`troika serve` in a process of its own."""
    # A shell's background jobs, and what they start, ignore SIGINT unless told otherwise.
    serve = ["env", "--default-signal=INT", *command("serve", "--home", home)]
    process = subprocess.Popen(serve, cwd=REPOSITORY, env=plain_environment())
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (state := read_state(home / "server.json")) is None:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield state
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_SECONDS) == 0
    assert read_state(home / "server.json") is None


@pytest.fixture(scope="module")
def generated(server: ServerState) -> Generated:
    with Client(f"127.0.0.1:{server.grpc_port}", model="digits") as client:
        return client.generate(500, seed=12345)


def test_a_stranger_to_the_judge_sees_the_digits_that_were_asked_for(generated: Generated) -> None:
    """Nearest neighbours in pixels share nothing with the evaluator; on real digits they are right in 99 %."""
    real = load_digits()
    stranger = KNeighborsClassifier(3).fit(real.images.reshape(-1, 64), real.target)
    seen = stranger.predict(generated.images.reshape(-1, 64) * (16 / 255))
    assert generated.labels is not None
    assert (seen == generated.labels).mean() >= 0.95
    for label in range(10):
        assert (seen[generated.labels == label] == label).mean() >= 0.8, label
    # The control: with the labels of other images the same test is far from passing.
    assert (seen == np.roll(generated.labels, 1)).mean() < 0.2


def test_the_images_are_not_one_image_and_not_copies(generated: Generated) -> None:
    assert len({image.tobytes() for image in generated.images}) == len(generated.images)
    real = np.rint(load_digits().images * (255 / 16)).reshape(-1, 64)
    nearest = [np.abs(real - image.reshape(-1)).mean(axis=1).min() for image in generated.images[:100]]
    assert np.median(nearest) > 2


def test_the_answer_names_the_released_model(home: Path, generated: Generated) -> None:
    released = read_release(home / "releases.git", "local")
    assert released is not None
    assert generated.model_digest == released.digest
    assert (home / "store" / "digits" / released.digest.replace(":", "-") / "manifest.json").exists()


def test_the_same_seed_and_label_give_the_same_image_again(server: ServerState, generated: Generated) -> None:
    assert generated.labels is not None
    with Client(f"127.0.0.1:{server.http_port}", "http", model="digits") as client:
        again = client.generate(1, seed=int(generated.seeds[42]), labels=int(generated.labels[42]))
    assert (again.images[0] == generated.images[42]).all()


def test_generate_writes_a_picture(home: Path, server: ServerState, tmp_path: Path) -> None:
    out = tmp_path / "sevens.png"
    subprocess.run(
        command("generate", "--home", home, "--count", "20", "--label", "7", "--seed", "3", "--out", out),
        cwd=REPOSITORY,
        env=plain_environment(),
        check=True,
        timeout=DEADLINE_SECONDS,
    )
    with Image.open(out) as picture:
        assert picture.size == (6 * (10 * 9 + 1), 6 * (2 * 9 + 1))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--label", "10"], "no class '10'"),
        (["--label", "-1"], "no class '-1'"),
        (["--seed", "-1"], "seed"),
        (["--seed", "9223372036854775807"], "seed"),
        (["--count", "0"], "count"),
        (["--out", "/proc/none/x.png"], "cannot write"),
    ],
)
def test_a_wrong_request_is_refused_by_name(
    home: Path, server: ServerState, arguments: list[str], words: str
) -> None:
    finished = subprocess.run(
        command("generate", "--home", home, *arguments),
        cwd=REPOSITORY,
        env=plain_environment(),
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert finished.returncode == 1
    assert finished.stderr.startswith("error:")
    assert any(word in finished.stderr for word in words.split("|")), finished.stderr


def refused_serve(released_in: Path, *arguments: str | Path) -> str:
    """What `troika serve` says when it refuses to serve what another home has released."""
    finished = subprocess.run(
        command("serve", *arguments),
        cwd=REPOSITORY,
        env={**plain_environment(), "TROIKA_RELEASE_REMOTE": str(released_in / "releases.git")},
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert finished.returncode == 1
    assert finished.stderr.startswith("error:")
    return finished.stderr


def test_a_second_server_on_the_same_port_is_refused(home: Path, server: ServerState) -> None:
    # Another home, so that it is the port that is in the way; the release is the same.
    said = refused_serve(home, "--home", home / "second", "--http-port", str(server.http_port))
    assert str(server.http_port) in said


def test_a_store_with_one_byte_changed_is_not_served(home: Path, server: ServerState, tmp_path: Path) -> None:
    (graph,) = (home / "store").glob("*/*/graph_repository/*/1/model.onnx")
    before = graph.read_bytes()
    graph.chmod(0o644)
    graph.write_bytes(bytes([before[0] ^ 1]) + before[1:])
    try:
        assert "model.onnx" in refused_serve(home, "--home", tmp_path / "fresh")
    finally:
        graph.write_bytes(before)


def test_the_python_in_the_readme_runs(server: ServerState) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text("utf-8"), re.DOTALL)
    assert "127.0.0.1:8001" in code
    finished = subprocess.run(
        [sys.executable, "-c", code.replace("127.0.0.1:8001", f"127.0.0.1:{server.grpc_port}")],
        check=True,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert finished.stdout == f"(20, 8, 8, 1) {server.digest}\n"
    assert "uint8 (20, 8, 8, 1)" in code
