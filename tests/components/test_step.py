"""A step as a command: what it asks for, how it takes parameters, and what it says when they are wrong."""

import errno
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from quick import REPOSITORY
from tiny_steps import Paths, run_quietly, step_function, tiny_sections, write_params

from components.step import STEPS, check_sections, clear_errors, resolve_params
from troika.errors import (
    BundleError,
    DatasetError,
    DeadlineError,
    DivergedError,
    GateBrokenError,
    NotApprovedError,
    ParameterError,
    ReleaseError,
    ServerError,
    StoreError,
    SupersededError,
    TrainingPausedError,
    TroikaError,
)
from troika.releases import local


@pytest.fixture(autouse=True)
def _no_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TROIKA_HOME", "TROIKA_STORE", "TROIKA_RELEASE_REMOTE", "TROIKA_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", STEPS)
def test_help_tells_every_argument(name: str) -> None:
    command = [sys.executable, "-m", f"components.{name}", "--help"]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    step = step_function(name)
    flat = " ".join(done.stdout.split())
    first_line = (sys.modules[step.__module__].__doc__ or "").splitlines()[0]
    assert first_line in flat
    assert done.stderr == ""
    arguments = set(inspect.signature(step).parameters)
    for argument in arguments - {"params"}:
        # Each with a sentence behind its name.
        assert f"--{argument} " in done.stdout
        assert f"\n        {argument}: " in (step.__doc__ or "") or f"\n    {argument}: " in inspect.getdoc(step)
    assert ("--params" in flat) == ("--set" in flat) == ("params" in arguments)


@pytest.mark.parametrize("name", STEPS)
def test_a_missing_path_is_named(name: str) -> None:
    code, text = run_quietly(name)
    assert code == 2
    required = [
        f"--{argument}"
        for argument, kind in inspect.signature(step_function(name)).parameters.items()
        if argument not in {"params", "state", "store", "remote", "environment"} and kind.default is kind.empty
    ]
    assert f"the following arguments are required: {', '.join(required)}" in text


def test_an_unknown_option_is_named() -> None:
    code, text = run_quietly("export_model", "--checkpoint", "a", "--bundle", "b", "--colour", "red")
    assert code == 2
    assert "unrecognized arguments: --colour red" in text


def run_train(tmp_path: Path, *arguments: str | Path) -> tuple[int, str]:
    paths = ("--dataset", tmp_path / "no", "--checkpoint", tmp_path / "c", "--history", tmp_path / "h")
    return run_quietly("train", *paths, *arguments)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("colour=red", "- colour: unknown key; known keys: family, framework, preset, steps"),
        ("steps=many", "- steps: Input should be a valid integer (got 'many')"),
        ("steps=1.5", "- steps: Input should be a valid integer (got 1.5)"),
        ("steps=", "- steps: Input should be a valid integer (got None)"),
        ("steps=0", "- steps: Input should be greater than 0 (got 0)"),
        ("checkpoint_seconds=1e-3", "write 1.0e-3"),
        ("presets=[]", "- presets: Input should be a valid dictionary"),
        ("presets.r3gan.network.width=3", "network.convolutional.width: unknown key"),
        ("presets.r3gan.beta1=fast", "beta1: Input should be a valid number (got 'fast')"),
        ("steps", "--set 'steps': expected KEY=VALUE, such as steps=100"),
        ("steps=[1", "--set 'steps=[1': what follows the = is not valid YAML"),
    ],
)
def test_a_wrong_parameter_is_named_before_anything_is_done(tmp_path: Path, assignment: str, words: str) -> None:
    code, text = run_train(tmp_path, "--params", write_params(tmp_path), "--set", assignment)
    assert code == 1
    assert text.startswith("error: ")
    assert words in text
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_the_file_is_named_where_a_value_is_wrong(tmp_path: Path) -> None:
    path = write_params(tmp_path, {"train": {"seed": -1}})
    _, text = run_train(tmp_path, "--params", path)
    assert f"error: {path}: train is not valid:\n  - seed: Input should be greater than or equal to 0" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("evaluate: {}\n", "section 'train' is missing"),
        ("train: {}\ntrane: {}\n", "there is no step 'trane'; the steps are prepare_data, train, export_model"),
        ("train: {}\npublish_model: {}\n", "- family: missing, and there is no hidden default"),
        ("train: 3\n", "must hold one section of `key: value` lines per step"),
        ("train: [\n", "is not valid YAML"),
    ],
)
def test_a_wrong_section_is_named(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "params.yaml").write_text(content)
    code, text = run_train(tmp_path, "--params", tmp_path / "params.yaml")
    assert code == 1
    assert str(tmp_path / "params.yaml") in text
    assert words in text


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_train(tmp_path, "--params", tmp_path / "none.yaml") == (
        1,
        f"error: parameter file {tmp_path}/none.yaml does not exist; give --params FILE\n",
    )
    monkeypatch.chdir(tmp_path)
    assert "parameter file params.yaml does not exist" in run_train(tmp_path)[1]


def test_set_reaches_nested_values_and_the_last_one_counts(made: Paths, tmp_path: Path) -> None:
    code, text = run_quietly(
        "train", "--dataset", made.dataset, "--checkpoint", tmp_path / "c", "--history", tmp_path / "h",
        "--params", write_params(tmp_path), "--set", "presets.r3gan.network.hidden_size=5", "--set", "steps=9",
        "--set", "steps=2",
    )  # fmt: skip
    assert code == 0, text
    recorded = json.loads((tmp_path / "c" / "lineage.json").read_text())["train"]
    assert recorded["steps"] == 2
    assert recorded["settings"]["network"] == {
        "kind": "convolutional", "channels": 4, "max_channels": 8, "hidden_size": 5, "residual_blocks": 0,
        "dropout": 0.0,
    }  # fmt: skip


def test_overrides_lie_above_all_layers_and_those_of_other_steps_do_not_count() -> None:
    step = step_function("train")
    layers: list[dict[str, Any]] = [tiny_sections()["train"], {"steps": 7, "seed": 7}]
    overrides = {"train": {"steps": 8.0}, "evaluate": {"nonsense": 1}}
    found = resolve_params(step, *layers, overrides=overrides)
    assert (found.steps, found.seed) == (8, 7)
    assert layers[0]["steps"] == 60
    with pytest.raises(ParameterError, match="overrides: there is no step 'trane'; the steps are prepare_data"):
        resolve_params(step, *layers, overrides={"trane": {}})
    with pytest.raises(ParameterError, match="overrides: train must hold `key: value` pairs, not 3"):
        check_sections({"train": 3}, "overrides")


def test_a_bug_keeps_its_traceback_and_a_troika_error_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), clear_errors():
        raise ZeroDivisionError
    with pytest.raises(SystemExit) as ended, clear_errors():
        raise ParameterError("steps: too few")
    assert ended.value.code == 1
    assert capsys.readouterr().out == "error: steps: too few\n"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ParameterError("x"), 1), (DatasetError("x"), 1), (DivergedError("not_finite", "x"), 1),
        (BundleError("x"), 1), (NotApprovedError("x"), 1), (GateBrokenError("x"), 1), (SupersededError("x"), 1),
        (StoreError("x"), 69), (ReleaseError("x"), 69), (ServerError("x"), 69), (DeadlineError("x"), 69),
        (TrainingPausedError("x"), 75),
    ],
)  # fmt: skip
def test_the_exit_status_says_whether_the_same_again_may_help(error: TroikaError, status: int) -> None:
    with pytest.raises(SystemExit) as ended, clear_errors():
        raise error
    assert ended.value.code == status


def test_store_remote_and_environment_come_from_the_environment(
    made: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = local.ensure_local_remote(tmp_path / "git")
    monkeypatch.setenv("TROIKA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("TROIKA_RELEASE_REMOTE", str(remote))
    monkeypatch.setenv("TROIKA_ENVIRONMENT", "staging")
    publish = (
        "--bundle",
        made.bundle,
        "--verdict",
        made.verdict,
        "--reference",
        made.reference,
        "--published",
        tmp_path / "published.json",
    )
    release = ("--published", tmp_path / "published.json", "--release", tmp_path / "release.json")
    assert run_quietly("publish_model", *publish)[0] == 0
    code, text = run_quietly("release_model", *release, "--params", write_params(tmp_path))
    assert code == 0, text
    assert "\nstaging: version 1 released, commit " in text
    published = json.loads((tmp_path / "published.json").read_text())
    assert published["store"] == (tmp_path / "store").as_uri()
    # What is given on the command line counts more.
    assert run_quietly("publish_model", *publish, "--store", tmp_path / "other")[0] == 0
    assert (tmp_path / "other" / "tiny").is_dir()
    _, text = run_quietly("release_model", *release, "--params", tmp_path / "params.yaml", "--environment", "test")
    assert "\ntest: version 1 released, commit " in text


def test_without_them_all_lies_in_the_home_folder(
    made: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROIKA_HOME", str(tmp_path / "home"))
    publish = (
        "--bundle",
        made.bundle,
        "--verdict",
        made.verdict,
        "--reference",
        made.reference,
        "--published",
        tmp_path / "published.json",
    )
    release = ("--published", tmp_path / "published.json", "--release", tmp_path / "release.json")
    assert run_quietly("publish_model", *publish)[0] == 0
    code, text = run_quietly("release_model", *release, "--params", write_params(tmp_path))
    assert code == 0, text
    assert "\nlocal: version 1 released" in text
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["releases.git", "store"]


@pytest.mark.parametrize(("number", "clear"), [(errno.ENOSPC, True), (errno.EROFS, True), (errno.EIO, False)])
def test_a_full_disk_is_told_in_one_line(number: int, clear: bool, capsys: pytest.CaptureFixture[str]) -> None:
    error = OSError(number, os.strerror(number), "/disk/file")
    with pytest.raises(SystemExit if clear else OSError) as caught, clear_errors():
        raise error
    if clear:
        assert caught.value.code == 1
        assert capsys.readouterr().out.startswith(f"error: {os.strerror(number)}: /disk/file; make room")
