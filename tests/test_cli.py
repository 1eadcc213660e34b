"""The `troika` command: help, examples, and errors that say what would be right."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from quick import REPOSITORY, plain_environment
from typer.testing import CliRunner

from components.step import LIGHT
from troika.cli import _EXTRAS, _label, _scale, app
from troika.cli_data import BUILT_IN
from troika.releases.pointer import ensure_local_remote, release
from troika.releases.store import PublishedModel


def troika(*arguments: str | Path) -> tuple[int, str]:
    """Exit status and all output."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    for name in ("HOME", "STORE", "RELEASE_REMOTE", "ENVIRONMENT", "TRAIN_IMAGE"):
        monkeypatch.delenv(f"TROIKA_{name}", raising=False)


@pytest.mark.parametrize("command", ["run", "serve", "generate", "pipeline"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    status, output = troika(command, "--help")
    assert status == 0
    assert f"troika {command}" in output.split("Example")[-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train.steps=0", ["steps", "greater than 0"]),
        ("train.steps=many", ["steps", "integer", "'many'"]),
        ("train.stepps=10", ["stepps: unknown key", "known keys", "batch_size"]),
        ("train.preset=stylegan", ["preset", "'stylegan'", "article, dcgan, r3gan"]),
        ("train.family=vae", ["family", "'vae'", "gan"]),
        ("train.framework=jax", ["framework", "'jax'", "pytorch"]),
        ("train.seed=-1", ["seed", "greater than or equal to 0"]),
        ("train.seed=9223372036854775808", ["seed", "less than"]),
        ("train.presets.r3gan.latent_size=0", ["latent_size"]),
        ("prepare_data.validation_share=0.9", ["leave at least 0.2 for training"]),
        (
            "evaluate.limits.label_agreement.at_most=1.0",
            ["label_agreement", "exactly one of at_least"],
        ),
        ("release_model.attempts=0", ["attempts"]),
        ("export_model.model_name=My Model", ["model_name"]),
        ("trian.steps=1", ["no step 'trian'", "prepare_data, train"]),
        ("publish_model.x=1", ["publish_model has no parameters"]),
        ("train.steps", ["expected KEY=VALUE"]),
    ],
)
def test_a_wrong_parameter_is_named_before_any_work(tmp_path: Path, change: str, words: list[str]) -> None:
    status, output = troika("run", "--home", tmp_path / "home", "--output", tmp_path / "out", "--set", change)
    assert status == 1
    for word in ("error:", *words):
        assert word in output
    assert not (tmp_path / "home").exists()


def test_a_missing_key_and_a_missing_section_are_named(tmp_path: Path) -> None:
    sections = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    del sections["train"]["steps"]
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(sections))
    status, output = troika("run", "--home", tmp_path / "home", "--params", params)
    assert (status, "steps: missing" in output) == (1, True)
    del sections["evaluate"]
    sections["train"]["steps"] = 5
    params.write_text(yaml.safe_dump(sections))
    status, output = troika("run", "--home", tmp_path / "home", "--params", params)
    assert (status, "section 'evaluate' is missing" in output) == (1, True)


def test_a_parameter_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    status, output = troika("run", "--home", tmp_path / "home", "--params", tmp_path / "none.yaml")
    assert (status, "none.yaml does not exist" in output) == (1, True)


def test_a_dry_run_reads_the_data_says_what_training_needs_and_leaves_nothing(tmp_path: Path) -> None:
    places = ("--home", tmp_path / "home", "--output", tmp_path / "out")
    status, output = troika("run", "--dry-run", "--preset", "article", *places)
    assert status == 0, output
    first, _, rest = output.partition("\n")
    assert first.startswith("1206 train, 271 validation")
    said = yaml.safe_load(rest)
    assert said["train"]["preset"] == "article"
    assert said["parameters"]["total"] == 750_144 + 591_873
    assert not list(tmp_path.iterdir())
    status, output = troika("run", "--dry-run", "--set", "prepare_data.path=x", "--set", "prepare_data.source=npz")
    assert (status, "x" in output) == (1, True)
    status, output = troika("run", "--dry-run", "--image", "troika-train")
    assert (status, "--dry-run: looks at this machine" in output) == (1, True)


def test_a_built_in_set_has_its_own_steps_name_and_environment(tmp_path: Path) -> None:
    status, output = troika("run", "--dry-run", "--dataset", "mnist5k")
    assert status == 0, output
    first, _, rest = output.partition("\n")
    assert re.match(r"\d+ train, \d+ validation, \d+ test; 0 refused; 10 classes, \(28, 28, 1\) pixels", first)
    assert yaml.safe_load(rest)["train"]["steps"] == BUILT_IN["mnist5k"].changes["train.steps"]

    remote = ensure_local_remote(tmp_path / "releases.git")
    for number, environment in enumerate(("local", "mnist5k")):
        other = PublishedModel(f"other{number}", "sha256:" + "a" * 64, "file:///store", created=True)
        release(remote, environment, other, "0" * 64)
    status, output = troika("run", "--home", tmp_path, "--output", tmp_path / "output", "--dataset", "mnist5k")
    assert (status, "mnist5k serves other1, and a release of mnist5k would" in output) == (1, True)


@pytest.mark.parametrize("option", ["--home", "--output"])
def test_a_folder_that_cannot_be_written_is_named_before_any_work(tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    places = {"--home": tmp_path / "home", "--output": tmp_path / "out"} | {option: tmp_path / "file" / "inside"}
    status, output = troika("run", *(part for pair in places.items() for part in pair))
    assert status == 1
    assert f"error: {option}: cannot write" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--preset", "r2gan"],
            "error: --preset: train is not valid:\n  - preset: there is no 'r2gan'; available: ",
        ),
        (["--set", "train.preset=r2gan"], "error: --set: train is not valid:\n  - preset: there is no 'r2gan'"),
        (["--seed", "-1", "--set", "train.steps=5"], "error: --seed: train is not valid:\n  - seed: "),
    ],
)
def test_an_error_names_what_was_typed(arguments: list[str], words: str, tmp_path: Path) -> None:
    status, output = troika("run", "--home", tmp_path, *arguments)
    assert status == 1
    assert words in output


def test_a_wrong_value_of_the_file_is_the_files_fault_whatever_is_typed(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text((REPOSITORY / "params.yaml").read_text().replace("steps: 6000", "steps: 0"))
    status, output = troika("run", "--home", tmp_path, "--params", file, "--seed", "1")
    assert (status, f"error: {file}: train is not valid:\n  - steps: " in output) == (1, True)


def test_each_kind_of_file_is_called_what_it_is(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    for arguments, words in (
        (["pipeline", "--cluster", missing], f"cluster file {missing} does not exist; give --cluster FILE"),
        (["sweep", missing], f"sweep file {missing} does not exist; give another FILE"),
        (["run", "--params", missing], f"parameter file {missing} does not exist; give --params FILE"),
    ):
        status, output = troika(*arguments)
        assert (status, output.strip()) == (1, f"error: {words}")


@pytest.mark.parametrize(
    ("missing", "command", "words"),
    [
        (
            "psutil",
            "generate",
            "needs psutil, which is not installed: `pip install '.[serve]'`",
        ),
        (
            "kfp",
            "pipeline",
            "needs kfp, which is not installed: `pip install '.[pipeline]'`",
        ),
        ("components", "run", "needs a checkout of Troika: run it there"),
    ],
)
def test_what_a_command_needs_and_lacks_is_said_in_a_line(missing: str, command: str, words: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from troika.cli import app; app([{command!r}])"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: this command {words}")
    assert done.stderr.count("\n") == 1


def test_every_part_that_can_be_missing_is_one_of_the_package() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(_EXTRAS.values()) <= set(extras)
    for module, extra in _EXTRAS.items():
        assert importlib.util.find_spec(module) is not None, f"{module} of {extra} is unknown"


def test_a_run_that_would_replace_another_model_ends_before_any_work(tmp_path: Path) -> None:
    remote = ensure_local_remote(tmp_path / "releases.git")
    release(
        remote, "local", PublishedModel("pictures", "sha256:" + "a" * 64, "file:///store", created=True), "0" * 64
    )
    status, output = troika("run", "--home", tmp_path, "--output", tmp_path / "output")
    assert status == 1
    assert "error: local serves pictures, and a release of digits would take it away from its clients" in output
    assert "--replace" in output
    assert "prepare_data" not in output


def test_serve_says_when_nothing_has_been_released(tmp_path: Path) -> None:
    status, output = troika("serve", "--home", tmp_path)
    assert status == 1
    assert "nothing has been released to local; `troika run` does so\n" in output
    elsewhere = PublishedModel("mnist5k", "sha256:" + "a" * 64, "file:///store", created=True)
    release(tmp_path / "releases.git", "mnist5k", elsewhere, "0" * 64)
    status, output = troika("serve", "--home", tmp_path)
    assert (status, "elsewhere set TROIKA_ENVIRONMENT to one of: mnist5k" in output) == (1, True)


def test_generate_says_how_to_start_a_server(tmp_path: Path) -> None:
    status, output = troika("generate", "--home", tmp_path)
    assert (status, "troika serve" in output) == (1, True)
    status, output = troika("generate", "--url", "127.0.0.1:1", "--home", tmp_path)
    assert (status, "127.0.0.1:1" in output) == (1, True)
    dead = {"pid": 2**22, "process_created": 0.0, "http_port": 1, "grpc_port": 2, "metrics_port": 3}
    (tmp_path / "server.json").write_text(json.dumps({**dead, "model": "m", "digest": "d", "log": "l"}))
    status, output = troika("generate", "--home", tmp_path)
    assert (status, "troika serve" in output) == (1, True)


def test_pipeline_writes_the_package_and_its_form_for_git(tmp_path: Path) -> None:
    status, output = troika("pipeline", "--image", "troika-train:test", "--namespace", "team", "--out", tmp_path)
    assert status == 0
    for name in ("pipeline.yaml", "pipeline-manifests.yaml"):
        assert str(tmp_path / name) in output
    package, _ = yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text())
    images = {executor["container"]["image"] for executor in package["deploymentSpec"]["executors"].values()}
    assert images == {"troika-train:test"}
    _, version = yaml.safe_load_all((tmp_path / "pipeline-manifests.yaml").read_text())
    assert version["metadata"]["name"] in output


def test_a_light_image_is_that_of_the_steps_that_need_no_framework(tmp_path: Path) -> None:
    """In all that is compiled, the winner of a sweep included."""
    images = ("--image", "r.test/train@sha256:00", "--light-image", "r.test/light@sha256:00")
    assert troika("pipeline", *images, "--out", tmp_path)[0] == 0
    assert troika("sweep", "pipelines/sweep.yaml", *images, "--out", tmp_path / "sweep.yaml")[0] == 0
    for name in ("pipeline.yaml", "pipeline-manifests.yaml", "sweep.yaml"):
        parts = list(yaml.safe_load_all((tmp_path / name).read_text()))
        # In an object for Git the package is a part of its spec.
        packages = [part.get("spec", {}).get("pipelineSpec", part) for part in parts]
        (package,) = [found for found in packages if "deploymentSpec" in found]
        light = {
            key.removeprefix("exec-")
            for key, executor in package["deploymentSpec"]["executors"].items()
            if executor["container"]["image"] == "r.test/light@sha256:00"
        }
        assert light == {"find-champion", "publish-model", "release-model"}, name
    status, output = troika("run", "--light-image", "light:1", "--home", tmp_path / "home")
    assert (status, "--light-image: goes with --image" in output) == (1, True)


def test_steps_of_the_light_image_import_no_framework() -> None:
    modules = [f"components.{step}" for step in LIGHT]
    code = (
        f"import sys, importlib; [importlib.import_module(name) for name in {modules}]; "
        "heavy = {'torch', 'tensorflow', 'scipy', 'sklearn', 'dvc', 'onnx', 'jinja2', 'troika.models', "
        "'troika.quality', 'troika.datasets'} & set(sys.modules); sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY, env=plain_environment())


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, troika.cli; "
        "heavy = {'torch', 'kfp', 'onnx', 'onnxruntime', 'sklearn', 'tritonclient', 'numpy'} & set(sys.modules); "
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY, env=plain_environment())


def test_the_makefiles_targets_are_documented() -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout
    for target in ("run", "serve", "generate", "pipeline", "repro", "test", "check", "benchmark"):
        assert f"\n{target} " in f"\n{listed}"


@pytest.mark.parametrize(
    ("classes", "text", "expected"),
    [
        (("cat", "dog"), "dog", "dog"),
        (("cat", "dog"), "1", 1),
        (("cat", "dog"), "-1", -1),
        (("cat", "dog"), "owl", "owl"),
        (("1", "2", "10"), "2", "2"),
        (("1", "2", "10"), "0", "0"),
        (("cat",), None, None),
    ],
)
def test_a_class_on_the_command_line_is_a_name_first(
    classes: tuple[str, ...], text: str | None, expected: int | str | None
) -> None:
    assert _label(classes, text) == expected


@pytest.mark.parametrize(("side", "expected"), [(8, 6), (28, 2), (32, 2), (48, 1), (64, 1), (256, 1)])
def test_small_images_are_enlarged_in_a_picture(side: int, expected: int) -> None:
    assert _scale(side) == expected
