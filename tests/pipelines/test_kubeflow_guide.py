"""The commands of the guide, as they stand, against the fake of Kubeflow's API server."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from kubeflow_commands import troika
from pipelines_fake import FakeKubeflow, recorded
from quick import REPOSITORY

from pipelines.backend import FEATURES, required_version

GUIDE = (REPOSITORY / "docs" / "guides" / "kubeflow.md").read_text("utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL)
COMMANDS = [
    line.removeprefix("$ ")
    for block in BLOCKS
    for line in block.splitlines()
    if re.match(r"\$ (troika|export) ", line)
]
URL = "http://localhost:8080"


def test_each_command_of_the_guide_works(
    fake: FakeKubeflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pipelines").mkdir()
    for name in ("params.yaml", "pipelines/cluster.yaml", "pipelines/sweep.yaml"):
        shutil.copyfile(REPOSITORY / name, tmp_path / name)
    (tmp_path / "token").write_text("token-of-test\n")
    (declarations,) = re.findall(r"```yaml\n(nightly:.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "recurring.yaml").write_text(declarations)
    monkeypatch.chdir(tmp_path)
    fake.plays = [recorded("run_released")]
    fake.token = "token-of-test"  # noqa: S105
    ran = []
    for command in COMMANDS:
        words = shlex.split(command.replace(URL, fake.url), comments=True)
        if words[0] == "export":
            for assignment in words[1:]:
                monkeypatch.setenv(*assignment.split("=", 1))
        else:
            status, output = troika(*words[1:])
            assert status == 0, f"{command}\n{output}"
            ran.append(" ".join(words[1:3]))
    assert {"doctor --kubeflow", "submit --to", "recurring promote", "recurring retry"} <= set(ran)
    assert sum(command.startswith("sweep") for command in ran) == 2
    assert len(fake.runs) == 4
    assert [run["display_name"] for run in fake.recurring.values()] == ["nightly"]


def test_the_guide_names_the_oldest_backend_that_runs_our_packages() -> None:
    needed = required_version(["securityContext", "retryPolicy", "pvcMount", "isArtifactList"])
    assert f"Kubeflow Pipelines {needed} or newer" in GUIDE
    assert f"| pods as user 10001 (`securityContext`) | {needed} |" in GUIDE
    counted = FEATURES["max_concurrency with the newest version"].since
    assert f"count `max_concurrency` from {'.'.join(map(str, counted))}" in GUIDE


def test_the_guide_names_every_exit_status() -> None:
    table = GUIDE[GUIDE.index("| exit status |") :]
    assert re.findall(r"^\| (\d+) \|", table, re.MULTILINE)[:5] == ["0", "1", "2", "3", "130"]
