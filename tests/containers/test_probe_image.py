"""The probe image: hardened as in a pod, it watches a real Triton, and holds nothing that it does not need."""

import json
import sys
import time
from pathlib import Path

import pytest
from containers_engine import run
from quick import REPOSITORY

from troika.serving.triton import TritonServer
from troika.serving.triton_process import answer, choose_ports

sys.path.insert(0, str(REPOSITORY / "tests" / "monitoring"))

from worlds import make_world

pytestmark = pytest.mark.containers
HARDENED = (
    "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=10001:10001", "--network=host",
    "--tmpfs=/tmp:mode=1777", "--memory=1g",
)  # fmt: skip


def test_it_measures_the_quality_of_what_a_real_triton_serves(host: str, probe_image: str, tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    for path in (tmp_path, *tmp_path.parents[:2], *tmp_path.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (port, *_) = choose_ports((0, 0, 0))
    with TritonServer(world.bundle.folder, exit_seconds=0) as server:
        settings = {
            "TROIKA_PROBE_SERVICE": f"127.0.0.1:{server.state.grpc_port}", "TROIKA_METRICS_PORT": port,
            "TROIKA_MODEL": "tiny", "TROIKA_DIGEST": world.bundle.digest, "TROIKA_STORE": world.store.as_uri(),
            "TROIKA_VERDICT": world.verdict_sha256, "TROIKA_PROBE_IMAGES": 200, "TROIKA_PROBE_SECONDS": 1,
        }  # fmt: skip
        variables = [f"--env={name}={value}" for name, value in settings.items()]
        mount = f"--volume={world.store}:{world.store}:ro"
        name = run(host, "run", "--detach", *HARDENED, mount, *variables, probe_image).stdout.strip()
        try:
            deadline = time.monotonic() + 60
            while b"troika_probe_quality{" not in (answer(port, "/metrics") or b""):
                log = run(host, "logs", name)
                assert time.monotonic() < deadline, log.stdout + log.stderr
                time.sleep(0.3)
            text = (answer(port, "/metrics") or b"").decode()
            assert 'troika_probe_golden_checks_total{model="tiny",result="differs"} 0.0' in text
            assert 'troika_probe_rounds_total{result="failed"} 0.0' in text
            run(host, "stop", "--time=20", name)
            assert run(host, "inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip() == "0"
        finally:
            run(host, "rm", "--force", name)


def test_it_has_git_with_ssh_and_neither_triton_nor_training(host: str, probe_image: str) -> None:
    code = (
        "import importlib.util as u, json, shutil;"
        "names = ('torch', 'tensorflow', 'kfp', 'dvc', 'sklearn', 'pytriton', 'troika.models', 'components');"
        "print(json.dumps([[n for n in names if u.find_spec(n)], [shutil.which(n) for n in ('git', 'ssh')]]))"
    )
    done = run(host, "run", "--rm", *HARDENED, "--entrypoint=python", probe_image, "-c", code)
    assert json.loads(done.stdout) == [[], ["/usr/bin/git", "/usr/bin/ssh"]]
