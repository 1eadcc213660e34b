"""Every block of docs/guides/calling-triton.md is run as it stands, but for the ports, against a real server."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from quick import REPOSITORY
from tiny_bundle import tiny_bundle

from troika.serving.triton import TritonServer

GUIDE = (REPOSITORY / "docs" / "guides" / "calling-triton.md").read_text("utf-8")
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    bundle = tiny_bundle(tmp_path_factory.mktemp("guide") / "bundle", model="digits")
    with TritonServer(bundle.folder, exit_seconds=0) as server:
        yield server


def test_the_guide_shows_every_way() -> None:
    assert [language for language, _ in BLOCKS] == ["bash", "python", "python", "python", "python", "bash"]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_the_guide_runs(digits: TritonServer, tmp_path: Path, number: int) -> None:
    language, code = BLOCKS[number]
    for port, real in ((8000, digits.state.http_port), (8001, digits.state.grpc_port)):
        code = code.replace(f"localhost:{port}", f"127.0.0.1:{real}")
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euo", "pipefail", "-c", code]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    if "seven.png" in code:
        with Image.open(tmp_path / "seven.png") as picture:
            assert picture.size == (3, 4)
    if "model_digest)" in code:
        assert digits.state.digest in done.stdout
