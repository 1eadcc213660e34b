"""The train image: every step runs in it as on a cluster, and nothing is in it that does not belong there."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from containers_engine import COMMIT, run
from quick import REPOSITORY, plain_environment, quick_sections

from troika.releases.pointer import ensure_local_remote, read_release

pytestmark = pytest.mark.containers
HARDENED = (
    "--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=10001:10001",
    "--network=none", "--tmpfs=/tmp:mode=1777",
)  # fmt: skip


def write_params(path: Path, *, promoted: bool) -> Path:
    path.write_text(yaml.safe_dump(quick_sections(promoted=promoted)))
    return path


def give_to(user: int, folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """A folder as a volume that the image's user owns; git minds who owns a repository."""
    folder = tmp_path / "work"
    folder.mkdir()
    write_params(folder / "params.yaml", promoted=True)
    ensure_local_remote(folder / "releases.git")
    give_to(10001, folder)
    yield folder
    shutil.rmtree(folder)


def test_every_step_runs_as_an_ordinary_user_on_a_read_only_root(host: str, train_image: str, work: Path) -> None:
    steps = {
        "prepare_data": "--dataset dataset --report data.html --refused refused",
        "train": "--dataset dataset --checkpoint checkpoint --history history.jsonl",
        "export_model": "--checkpoint checkpoint --bundle bundle",
        "train_evaluator": "--dataset dataset --evaluator evaluator.onnx",
        "find_champion": "--champion champion.json --remote /work/releases.git --environment staging",
        "evaluate": "--bundle bundle --dataset dataset --evaluator evaluator.onnx --champion champion.json "
        "--verdict verdict.json --reference reference.npz --report evaluation.html --metrics metrics.json",
        "publish_model": "--bundle bundle --verdict verdict.json --reference reference.npz "
        "--published published.json --store file:///work/store",
        "release_model": "--published published.json --release release.json --remote /work/releases.git "
        "--environment staging",
    }
    for step, arguments in steps.items():
        done = run(
            host, "run", *HARDENED, f"--volume={work}:/work", "--workdir=/work", train_image,
            "python", "-m", f"components.{step}", *arguments.split(),
        )  # fmt: skip
        assert "Traceback" not in done.stdout + done.stderr
    give_to(os.getuid(), work)
    released = read_release(work / "releases.git", "staging")
    assert released is not None
    assert json.loads((work / "release.json").read_text())["digest"] == released.digest
    card = json.loads((work / "bundle" / "manifest.json").read_text())["lineage"]
    assert card["code_commit"] == COMMIT


def test_a_step_that_fails_says_in_its_last_line_what_to_do(host: str, train_image: str, work: Path) -> None:
    done = run(
        host, "run", *HARDENED, f"--volume={work}:/work", "--workdir=/work", train_image, "python", "-m",
        "components.train", "--dataset", "missing", "--checkpoint", "c", "--history", "h", check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("error: ")
    assert "missing" in done.stdout.splitlines()[-1]


def troika_run(host: str, home: Path, image: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "troika.cli", "run", "--home", home / "home", "--output", home / "output",
        "--image", image, *arguments,
    ]  # fmt: skip
    return subprocess.run(
        [str(part) for part in command],
        check=False, cwd=REPOSITORY, env={**plain_environment(), "DOCKER_HOST": host},
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip


def test_the_whole_pipeline_runs_in_containers_and_its_model_is_released(
    host: str, train_image: str, light_image: str, tmp_path: Path
) -> None:
    """Each step in the smallest image that holds it; a real Triton in the light one gives the golden images."""
    params = write_params(tmp_path / "params.yaml", promoted=True)
    finished = troika_run(host, tmp_path, train_image, "--light-image", light_image, "--params", params)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    released = read_release(tmp_path / "home" / "releases.git", "local")
    assert released is not None
    assert f"Triton serves {released.digest}" in finished.stdout
    assert "\r" not in finished.stdout
    assert (tmp_path / "output" / "samples.png").exists()
    log = (tmp_path / "home" / "run.log").read_text()
    # In containers indeed, not in processes.
    found = re.findall(r"Executing task \S*?'([\w-]+)'|Found image '(\S+)'", log)
    images = {step: image for (step, _), (_, image) in pairwise(found) if step and image}
    light = {step for step, image in images.items() if image == light_image}
    assert light == {"find-champion", "publish-model", "release-model"}
    assert {step for step, image in images.items() if image == train_image} == {
        "prepare-data", "train", "export-model", "train-evaluator", "evaluate"
    }  # fmt: skip
    assert "Triton gives its" in finished.stdout


def test_a_rejected_model_stops_before_the_store_in_containers_too(
    host: str, train_image: str, tmp_path: Path
) -> None:
    params = write_params(tmp_path / "params.yaml", promoted=False)
    finished = troika_run(host, tmp_path, train_image, "--params", params, "--steps", "1")
    assert finished.returncode == 1
    assert "the verdict on this model is 'reject'" in finished.stderr
    assert not list((tmp_path / "home").glob("store/*/sha256-*"))
    assert read_release(tmp_path / "home" / "releases.git", "local") is None


def test_an_image_that_is_not_there_is_named(host: str, train_image: str, tmp_path: Path) -> None:
    for option, arguments in (
        ("--image", ("no-such-image:1",)),
        ("--light-image", (train_image, "--light-image", "no-such-image:1")),
    ):
        finished = troika_run(host, tmp_path, *arguments)
        said = f"{option} no-such-image:1: this machine has no such image"
        assert (finished.returncode, said in finished.stderr) == (1, True)


def test_the_image_is_small_labelled_and_has_no_tools_to_build_with(host: str, train_image: str) -> None:
    facts = json.loads(run(host, "image", "inspect", train_image).stdout)[0]
    assert facts["Size"] < 1.6e9
    assert facts["Config"]["User"] == "10001:10001"
    labels = facts["Config"]["Labels"]
    assert len(labels["org.opencontainers.image.revision"]) == 40
    assert labels["troika.framework"] == "pytorch"
    script = "command -v gcc make uv pip strip; ls -d /var/lib/apt/lists/* /root/.cache /tools 2>/dev/null; true"
    assert run(host, "run", *HARDENED, train_image, "sh", "-c", script).stdout.split() == []
    code = "import importlib.util as u; print([n for n in ('tensorflow', 'pytest', 'moto') if u.find_spec(n)])"
    assert run(host, "run", *HARDENED, train_image, "python", "-c", code).stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["train", "serve", "light"])
def test_a_bill_of_materials_is_in_the_image_and_true(
    host: str, kind: str, request: pytest.FixtureRequest
) -> None:
    image = request.getfixturevalue(f"{kind}_image")
    options = (*HARDENED, "--entrypoint=sh", image, "-c")
    bill = json.loads(run(host, "run", *options, "cat /opt/troika/sbom.cdx.json").stdout)
    assert bill["bomFormat"] == "CycloneDX"
    listed = {part["name"].lower().replace("_", "-"): part["version"] for part in bill["components"]}
    code = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({d.name.lower().replace('_', '-'): d.version for d in m.distributions()}))"
    )
    installed = json.loads(run(host, "run", *options, f'python -c "{code}"').stdout)
    assert listed == installed
    assert ("torch" in listed) == (kind == "train")


def test_a_change_of_the_code_alone_builds_on_the_old_layers(host: str, train_image: str, tmp_path: Path) -> None:
    """The layer of dependencies is taken as it is: its history is the same in both images."""
    changed = tmp_path / "context"
    names = subprocess.run(
        ["git", "ls-files", "-z", "troika", "components", "pipelines", "pyproject.toml", "requirements.lock",
         "params.yaml", "Dockerfile.train", ".dockerignore"],
        cwd=REPOSITORY, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, names):
        (changed / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, changed / name)
    with (changed / "troika" / "errors.py").open("a") as file:
        file.write("# changed\n")
    arguments = [
        "--build-arg", "BASE_IMAGE=troika-test-base:2", "--build-arg", "BUILD_IMAGE=troika-test-builder:1",
        "--build-arg", "FIND_LINKS=/wheels",
    ]  # fmt: skip
    run(
        host, "build", "--network=host", "--file", changed / "Dockerfile.train", "--tag", "troika-train:changed",
        *arguments, changed,
    )  # fmt: skip
    layers = [
        json.loads(run(host, "image", "inspect", image).stdout)[0]["RootFS"]["Layers"]
        for image in (train_image, "troika-train:changed")
    ]
    assert layers[0][:3] == layers[1][:3]  # base, Debian's packages, Python's packages
    assert layers[0] != layers[1]
