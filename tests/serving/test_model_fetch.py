"""What runs before Triton in a pod: whole and right, or a clear error and nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_bundle import tiny_bundle

from troika.releases.bundle import Bundle
from troika.releases.store import publish


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    made = tiny_bundle(tmp_path / "bundle")
    publish(made, {"decision": "promote", "bundle_digest": made.digest}, tmp_path / "store")
    return made


def model_fetch(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "troika.serving.model_fetch", *map(str, arguments)],
        env={**os.environ, **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def options(bundle: Bundle, tmp_path: Path) -> list[str | Path]:
    where: list[str | Path] = ["--store", tmp_path / "store", "--target", tmp_path / "target"]
    return [*where, "--model", "tiny", "--digest", bundle.digest]


def test_a_bundle_is_fetched_and_found_again(bundle: Bundle, tmp_path: Path) -> None:
    done = model_fetch(*options(bundle, tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{bundle.digest} fetched from" in done.stdout
    Bundle.open(tmp_path / "target", bundle.digest)
    assert "already" in model_fetch(*options(bundle, tmp_path)).stdout
    (tmp_path / "target" / "golden.npz").write_bytes(b"spoiled")
    assert "fetched from" in model_fetch(*options(bundle, tmp_path)).stdout
    Bundle.open(tmp_path / "target", bundle.digest)


def test_the_environment_is_enough(bundle: Bundle, tmp_path: Path) -> None:
    named = {"STORE": tmp_path / "store", "MODEL": "tiny", "DIGEST": bundle.digest, "TARGET": tmp_path / "target"}
    done = model_fetch(**{f"TROIKA_{name}": str(value) for name, value in named.items()})
    assert done.returncode == 0, done.stderr
    Bundle.open(tmp_path / "target", bundle.digest)


@pytest.mark.parametrize("change", ["store", "digest", "size", "signature", "target"])
def test_anything_wrong_is_one_clear_line_and_leaves_nothing(bundle: Bundle, tmp_path: Path, change: str) -> None:
    more: dict[str, list[str | Path]] = {
        "digest": ["--digest", "sha256:" + "0" * 64],
        "size": ["--max-bytes", "10"],
        "signature": ["--verify-key", tmp_path / "no-key"],
        "target": ["--target", "/proc/none/target"],
    }
    if change == "store":
        (graph,) = (tmp_path / "store").glob("*/*/graph_repository/*/1/model.onnx")
        graph.unlink()
        graph.write_bytes(b"tampered")
    done = model_fetch(*options(bundle, tmp_path), *more.get(change, []))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "target").exists()


def test_it_brings_no_framework(tmp_path: Path) -> None:
    code = "import sys, troika.serving.model_fetch; print(sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "tensorflow", "kfp", "onnx", "onnxruntime", "scipy", "sklearn"} & set(eval(done.stdout))  # noqa: S307
    assert "numpy" not in eval(done.stdout)  # noqa: S307
