"""Texts and numbers reach a step as they were written, through every reader that the backend puts in between.

The real Go libraries read and write here, those that kubectl is made of: `kubectl kustomize` uses yaml.v3, with
which the backend decodes a package; the rest of kubectl uses sigs.k8s.io/yaml, with which it stores one.
"""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import ruamel.yaml
import yaml
from quick import REPOSITORY

from components.step import read_sections
from pipelines.arguments import check_arguments
from pipelines.compile import compile_manifests, compile_pipeline
from pipelines.package import EXACT, check_values
from pipelines.sweep import Sweep, compile_sweep
from troika.errors import ParameterError
from troika.params import merge

KUBECTL = str(Path(sys.executable).parent / "kubectl")
TEXTS = [
    "08", "1e5", "0o17", "1_000", "0x1f", "0b11", "1.", ".5", "+1", "-0", "12e4567", "1E5", "1e+5", "0777", "1:20",
    "190:20:30", ".inf", "-.Inf", ".nan", "NaN", "yes", "No", "on", "OFF", "y", "n", "true", "FALSE", "null",
    "Null", "~", "", " ", "2024-01-01", "2001-12-14t21:59:43.10-05:00", "<<", "=", "---", "...", "--- a", "- a",
    "-", "a: b", "a:", ": a", "a #b", "#a", " a", "a ", "\ta", "a\t", "\n", "a\n", "a\n\n", "\na", "a\r\nb",
    "a\n b", "  a\nb", "&a", "*a", "!x", "!!int 1", "%a", "%YAML 1.2", "@a", "`a", "[", "{a: b}", "? a", "|", ">",
    "'", '"', "\\", "\\n", "é", "日本", "😀", "a\u2028b", "\u2029", "\u00a0", "\ufeffa", "\u200b", "word " * 400,
    "x" * 5000, "{x}", "$HOME",
]  # fmt: skip
KEYS = [text for text in TEXTS if text not in ("", "<<") and len(text) < 1000]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package and the manifests of a pipeline whose parameters hold all texts."""
    folder = tmp_path_factory.mktemp("texts")
    changes = {"prepare_data": {"version": "1e5", "texts": TEXTS, "keys": dict.fromkeys(KEYS, 1)}}
    sections = merge(read_sections(REPOSITORY / "params.yaml"), changes)
    version = compile_pipeline(folder / "package.yaml", "x:1", sections)
    compile_manifests(folder / "manifests.yaml", version, "team-a", "x:1", sections)
    return folder


def assert_as_written(graph: Any) -> None:
    assert graph["root"]["inputDefinitions"]["parameters"]["data_version"]["defaultValue"] == "1e5"
    params = graph["root"]["dag"]["tasks"]["prepare-data"]["inputs"]["parameters"]["params"]
    constant = params["runtimeValue"]["constant"]
    assert constant["texts"] == TEXTS
    assert set(constant["keys"]) == set(KEYS)
    assert constant["validation_share"] == 0.15
    assert constant["max_pixels"] == 50_000_000


def kubectl(*arguments: str) -> str:
    done = subprocess.run([KUBECTL, *arguments], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def written_by_v3(folder: Path, manifests: str) -> Path:
    """The file that yaml.v3 makes of what it has read."""
    folder.mkdir()
    (folder / "objects.yaml").write_text(manifests)
    (folder / "kustomization.yaml").write_text("resources: [objects.yaml]\n")
    (folder / "written.yaml").write_text(kubectl("kustomize", str(folder)))
    return folder / "written.yaml"


def read_by_sigs_yaml(path: Path, kind: str) -> str:
    return kubectl("annotate", "--local", "-f", str(path), "-o", kind, "read=1")


def pipeline_spec(objects: str) -> Any:
    # kubectl prints several objects as JSON one behind the other.
    decoder, rest = json.JSONDecoder(), objects.strip()
    while rest:
        found, end = decoder.raw_decode(rest)
        if found["kind"] == "PipelineVersion":
            return found["spec"]["pipelineSpec"]
        rest = rest[end:].strip()
    raise AssertionError("no PipelineVersion")


def test_a_second_reader_reads_the_package_as_the_first(compiled: Path) -> None:
    text = (compiled / "package.yaml").read_text()
    assert_as_written(yaml.safe_load(text))
    assert_as_written(ruamel.yaml.YAML(typ="safe", pure=True).load(text))


def test_the_backends_readers_read_what_was_meant(compiled: Path, tmp_path: Path) -> None:
    manifests = compiled / "manifests.yaml"
    assert_as_written(pipeline_spec(read_by_sigs_yaml(manifests, "json")))
    decoded = written_by_v3(tmp_path / "decoded", manifests.read_text())
    assert_as_written(pipeline_spec(read_by_sigs_yaml(decoded, "json")))
    # As a version is stored, and read again for each run.
    stored = written_by_v3(tmp_path / "stored", read_by_sigs_yaml(manifests, "yaml"))
    assert_as_written(pipeline_spec(read_by_sigs_yaml(stored, "json")))


def test_kfps_own_writing_would_change_a_text(compiled: Path, tmp_path: Path) -> None:
    """The negative control: the same content, as PyYAML writes it by itself."""
    plain = tmp_path / "plain.yaml"
    plain.write_text(yaml.safe_dump_all(yaml.safe_load_all((compiled / "manifests.yaml").read_text())))
    with pytest.raises(AssertionError):
        assert_as_written(pipeline_spec(read_by_sigs_yaml(plain, "json")))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (EXACT + 1, "would round it"),
        (-(EXACT + 1), "would round it"),
        (2**63, "would round it"),
        (float("nan"), "finite"),
        (float("-inf"), "finite"),
        ("a\x00b", r"U\+0000"),
        ("\x1b[0m", r"U\+001B"),
        ("\x7f", r"U\+007F"),
        ("a\x85b", r"U\+0085"),
        ("\ud800", r"U\+D800"),
        ("\ufffe", r"U\+FFFE"),
        ("{{workflow.name}}", "Argo replaces"),
        ("a$(KFP_POD_NAME)", "Kubernetes replaces"),
        (date(2024, 1, 1), "no date"),
        (b"a", "no bytes"),
    ],
)
def test_what_cannot_pass_is_refused_by_its_name(value: Any, problem: str, tmp_path: Path) -> None:
    base = read_sections(REPOSITORY / "params.yaml")
    for changes, name in (
        ({"train": {"seed": value}}, r"train\.seed: "),
        (
            {"train": {"presets": {"r3gan": {"network": {"x": [1, value]}}}}},
            r"train\.presets\.r3gan\.network\.x\[1\]: ",
        ),
    ):
        with pytest.raises(ParameterError, match=name + f".*{problem}"):
            compile_pipeline(
                tmp_path / "package.yaml", "x:1", {**base, "train": merge(base["train"], changes["train"])}
            )
        assert not (tmp_path / "package.yaml").exists()
    with pytest.raises(ParameterError, match=f"arguments of the run: overrides.train.seed: .*{problem}"):
        check_values({"overrides": {"train": {"seed": value}}}, "arguments of the run")


def test_a_null_is_refused_where_the_compiler_takes_none(tmp_path: Path) -> None:
    sections = merge(read_sections(REPOSITORY / "params.yaml"), {"train": {"presets": {"r3gan": {"l2": None}}}})
    with pytest.raises(ParameterError, match=r"parameters: train\.presets\.r3gan\.l2: null cannot be handed on"):
        compile_pipeline(tmp_path / "p.yaml", "x:1", sections)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hunter2@git.test/deploy.git", "https://hunter2@git.test/deploy.git", "s3://key:hunter2@models",
        "ssh://git:hunter2@git.test/x", "HTTP://hunter2@git.test",
        f"https://me:hunter2{'x' * 90}@git.test/deploy.git",
    ],
)  # fmt: skip
def test_a_password_is_neither_handed_on_nor_shown(url: str) -> None:
    with pytest.raises(ParameterError, match="run: release_remote: this URL holds a password or token") as caught:
        check_values({"release_remote": url}, "run")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ParameterError, match="holds a password"):
        check_arguments({"store": "s3://models", "environment": "a", "release_remote": url}, "run")


def test_a_user_without_a_password_passes() -> None:
    for url in ("git@git.test:deploy.git", "ssh://git@git.test/deploy.git", "https://git.test/@x", "s3://models"):
        check_values({"release_remote": url}, "run")


def test_the_largest_exact_integers_pass() -> None:
    check_values({"seed": EXACT, "other": -EXACT, "share": 1e300, "flag": True, "none": None}, "parameters")


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (1, "the key 1 is no text"),
        (True, "the key True is no text"),
        ("x" * 1001, "longer"),
        ("a\x07", r"U\+0007"),
    ],
)
def test_a_key_that_cannot_pass_is_refused(key: Any, problem: str) -> None:
    with pytest.raises(ParameterError, match=rf"parameters: '?train\.presets\..*{problem}"):
        check_values({"train": {"presets": {key: "a"}}}, "parameters")


def test_a_trial_whose_seed_would_be_rounded_is_refused(tmp_path: Path) -> None:
    sweep = Sweep.parse(
        {
            "algorithm": "grid",
            "objective": {"metric": "precision", "goal": "minimize"},
            "parameters": {"train.seed": {"type": "int", "values": [1, EXACT + 1]}},
        },
        "test",
    )
    with pytest.raises(ParameterError, match=r"a trial of the sweep: train\.seed: 9007199254740993: .*round"):
        compile_sweep(tmp_path / "p.yaml", "x:1", read_sections(REPOSITORY / "params.yaml"), sweep)
    assert not (tmp_path / "p.yaml").exists()
