"""A bundle is complete, answers as its golden file says, and depends on the checkpoint alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_steps import Paths, tiny_params

from components.export_model import GOLDEN_COUNT, export_model
from troika.datasets.dvc_hash import dvc_hash
from troika.errors import CheckpointError, ParameterError
from troika.models.export import TOLERANCE
from troika.onnx_session import open_session, run_generator
from troika.releases.bundle import Bundle

PARAMS = tiny_params("export_model")


def graph_of(bundle: Bundle) -> Path:
    return bundle.graph


def test_a_bundle_opens_and_tells_what_it_is(made: Paths, unconditional: Paths) -> None:
    for paths, preset in ((made, "r3gan"), (unconditional, "article")):
        bundle = Bundle.open(paths.bundle)
        assert bundle.model == "tiny"
        assert bundle.spec == {
            "family": "gan",
            "framework": "pytorch",
            "preset": preset,
            "image_shape": [8, 8, 1],
            "latent_size": 4,
            "num_classes": 10,
            "conditional": preset == "r3gan",
            "classes": list("0123456789"),
        }
        assert bundle.lineage == json.loads((paths.checkpoint / "lineage.json").read_text())


def test_parity_is_recorded_rung_by_rung(made: Paths) -> None:
    record = json.loads((made.bundle / "parity.json").read_text())
    assert (record["samples"], record["seed"], record["tolerance"]) == (8, 0, TOLERANCE)
    assert set(record["rungs"]) == {"batch_n", "batch_1", "permuted", "batch_1_to_n"}
    assert all(rung["max_difference"] <= TOLERANCE for rung in record["rungs"].values())


def test_the_golden_file_is_what_the_graph_answers(made: Paths, unconditional: Paths) -> None:
    for paths, inputs in ((made, {"seed", "label"}), (unconditional, {"seed"})):
        with np.load(paths.bundle / "golden.npz") as file:
            golden = dict(file)
        assert set(golden) == {"image", *inputs}
        assert golden["image"].shape == (GOLDEN_COUNT, 8, 8, 1)
        assert golden["image"].dtype == np.uint8
        assert golden["image"].std() > 0
        session = open_session(graph_of(Bundle.open(paths.bundle)))
        found = run_generator(session, golden["seed"][:, 0], golden["label"][:, 0] if "label" in inputs else None)
        assert np.array_equal(found, golden["image"])


def test_the_model_card_tells_which_label_is_which_class(
    made: Paths, unconditional: Paths, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(made.checkpoint, checkpoint)
    names = ["cat", "a|b", "<b>", "new\nline", *"456789"]
    (checkpoint / "classes.json").write_text(json.dumps(names))
    export_model(checkpoint, tmp_path / "bundle", tiny_params("export_model"))
    card = (tmp_path / "bundle" / "model_card.md").read_text()
    assert (
        "| label | class |\n|---|---|\n| 0 | cat |\n| 1 | a&#124;b |\n| 2 | &lt;b&gt; |\n| 3 | new line |" in card
    )
    config = (tmp_path / "bundle" / "model_repository" / "tiny" / "config.pbtxt").read_text()
    assert r'string_value: "[\"cat\", \"a|b\", ' in config
    assert "## Labels" not in (unconditional.bundle / "model_card.md").read_text()


def test_the_model_card_names_data_code_and_size(made: Paths) -> None:
    card = (made.bundle / "model_card.md").read_text()
    lineage = Bundle.open(made.bundle).lineage
    for value in (
        dvc_hash(made.dataset),
        lineage["dataset"]["content_hash"],
        lineage["code_commit"],
        "# Model card: tiny",
        "gan / pytorch / r3gan",
        "60, 16, 0",
        "8 x 8, 1 channel, uint8",
    ):
        assert value in card


def test_the_same_checkpoint_gives_the_same_digest(made: Paths, tmp_path: Path) -> None:
    moved = shutil.copytree(made.checkpoint, tmp_path / "elsewhere")
    digest = export_model(moved, tmp_path / "bundle", PARAMS)
    assert digest == Bundle.open(made.bundle).digest == Bundle.open(tmp_path / "bundle").digest


def test_another_name_gives_another_digest(made: Paths, tmp_path: Path) -> None:
    params = tiny_params("export_model", model_name="other")
    digest = export_model(made.checkpoint, tmp_path / "bundle", params)
    assert digest != Bundle.open(made.bundle).digest
    assert Bundle.open(tmp_path / "bundle").model == "other"


@pytest.mark.parametrize("name", ["", "Digits", "1st", "a_b", "../x", "a" * 64])
def test_a_name_that_triton_or_a_path_cannot_bear_is_refused(name: str) -> None:
    with pytest.raises(ParameterError, match="model_name: String should match pattern"):
        tiny_params("export_model", model_name=name)


def write(name: str, content: str) -> Callable[[Path], object]:
    return lambda checkpoint: (checkpoint / name).write_text(content)


def change_lineage(*keys: str, value: object) -> Callable[[Path], object]:
    def damage(checkpoint: Path) -> None:
        content = json.loads((checkpoint / "lineage.json").read_text())
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        (checkpoint / "lineage.json").write_text(json.dumps(content))

    return damage


def flip_last_byte(checkpoint: Path) -> None:
    weights = checkpoint / "model" / "generator.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "is not a checkpoint that train wrote"),
        (lambda checkpoint: (checkpoint / "lineage.json").unlink(), "is not a checkpoint that train wrote"),
        (lambda checkpoint: (checkpoint / "classes.json").unlink(), "is not a checkpoint that train wrote"),
        (write("lineage.json", "{"), "is not a checkpoint that train wrote"),
        (write("lineage.json", "[]"), "is not a checkpoint that train wrote"),
        (write("lineage.json", "{}"), "is not a checkpoint that train wrote"),
        (change_lineage("train", "family", value="vae"), "family: there is no 'vae'; available: gan"),
        (write("classes.json", '["a"]'), "classes.json must name 10 classes; train again"),
        (write("classes.json", "10"), "classes.json must name 10 classes; train again"),
        (lambda checkpoint: shutil.rmtree(checkpoint / "model"), "model.json is missing; run train"),
        (write("model/model.json", "{"), "is damaged: .*; train again"),
        (flip_last_byte, "has been changed or damaged; train again"),
    ],
    ids=[
        "no folder", "no lineage", "no classes", "no JSON", "a list", "no train", "another family", "one class",
        "a number", "no model", "no description", "a flipped bit",
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_refused_and_the_old_bundle_stays(
    made: Paths, tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    checkpoint = shutil.copytree(made.checkpoint, tmp_path / "checkpoint")
    shutil.copytree(made.bundle, tmp_path / "bundle")
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=words) as caught:
        export_model(checkpoint, tmp_path / "bundle", PARAMS)
    assert str(checkpoint) in str(caught.value)
    assert Bundle.open(tmp_path / "bundle").digest == Bundle.open(made.bundle).digest
    assert {path.name for path in tmp_path.iterdir()} <= {"bundle", "checkpoint"}
