"""The step train_evaluator: one file that says what it was made from; any other file is refused by name."""

import contextlib
import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from tiny_steps import tiny_params

from components.prepare_data import prepare_data
from components.train_evaluator import train_evaluator
from troika.datasets.contract import Dataset
from troika.errors import DatasetError, EvaluatorError
from troika.quality.evaluator import Evaluator, EvaluatorParams

BRIEF = EvaluatorParams(steps=76, batch_size=64, learning_rate=2.0e-3, features=16, seed=0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("digits"))


def prepared(folder: Path, **changes: str) -> Path:
    params = tiny_params("prepare_data", **changes)
    prepare_data(folder / "dataset", folder / "data.html", folder / "refused.json", params)
    return folder / "dataset"


@pytest.fixture(scope="module")
def trained(dataset: Path) -> Path:
    path = dataset.parent / "evaluator.onnx"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        digest = train_evaluator(dataset, path, BRIEF)
    assert digest in printed.getvalue()
    assert digest == Evaluator.open(path).digest
    return path


def test_the_file_says_what_it_was_made_from(trained: Path, dataset: Path) -> None:
    data = Dataset.open(dataset)
    opened = Evaluator.open(trained, data.info.content_hash)
    facts = opened.facts
    assert facts.dataset_content_hash == data.info.content_hash
    assert (facts.task, facts.held_out, facts.params) == ("classes", len(data.held_out), BRIEF)
    _, seen = opened.look_at(data.held_out.images)
    assert facts.accuracy == pytest.approx((seen == data.held_out.labels).mean())
    assert facts.accuracy > 0.7
    # For whoever looks at the file with other tools.
    properties = {entry.key: entry.value for entry in onnx.load(trained).metadata_props}
    assert properties["schema_version"] == "1"
    assert properties["dataset_content_hash"] == data.info.content_hash


def test_the_same_dataset_and_parameters_give_the_same_file(trained: Path, dataset: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.onnx"
    train_evaluator(dataset, again, BRIEF)
    assert again.read_bytes() == trained.read_bytes()


def test_the_evaluator_of_another_dataset_is_refused(trained: Path) -> None:
    with pytest.raises(
        EvaluatorError, match=r"was trained on dataset sha256:\w+, but this is sha256:0; run train_ev"
    ):
        Evaluator.open(trained, "sha256:0")


def write_graph(path: Path, outputs: list[str], properties: dict[str, str]) -> None:
    """A graph that gives its input again under these names."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 2])
    found = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in outputs]
    nodes = [helper.make_node("Identity", ["image"], [name]) for name in outputs]
    graph = helper.make_graph(nodes, "graph", [image], found)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, properties)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": "2"}, "schema_version: Input should be less than or equal to 1"),
        ({"dataset_content_hash": None}, "dataset_content_hash: Field required"),
        ({"accuracy": "1.5"}, "accuracy: Input should be less than or equal to 1"),
        ({"params": "{"}, "params: Expecting property name"),
        ({"params": '{"steps": 1}'}, "params.batch_size: Field required"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_facts_that_are_not_whole_are_named(
    trained: Path, tmp_path: Path, changes: dict[str, str | None], message: str
) -> None:
    properties = {**Evaluator.open(trained).facts.properties(), **changes}
    path = tmp_path / "changed.onnx"
    write_graph(
        path, ["features", "logits"], {key: value for key, value in properties.items() if value is not None}
    )
    with pytest.raises(
        EvaluatorError, match=rf"does not say what it was made from: {message}.*; run train_evaluator"
    ):
        Evaluator.open(path)


def test_what_is_no_evaluator_is_refused_by_name(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluatorError, match="cannot be read: No such file or directory; run train_evaluator"):
        Evaluator.open(tmp_path / "none.onnx")
    with pytest.raises(EvaluatorError, match="cannot be read: Is a directory"):
        Evaluator.open(tmp_path)
    for number, content in enumerate([b"", b"<html>", trained.read_bytes()[:3000]]):
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(content)
        with pytest.raises(EvaluatorError, match=r"is damaged: .*; run train_evaluator again"):
            Evaluator.open(path)
    write_graph(tmp_path / "generator.onnx", ["image_float"], {})
    with pytest.raises(
        EvaluatorError, match="no evaluator: its graph gives image_float for image, not features and"
    ):
        Evaluator.open(tmp_path / "generator.onnx")


def test_a_changed_dataset_writes_nothing(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not a dataset"):
        train_evaluator(tmp_path, tmp_path / "evaluator.onnx", BRIEF)
    assert not list(tmp_path.iterdir())


def test_one_class_learns_which_way_up_images_are(dataset: Path, tmp_path: Path) -> None:
    data = Dataset.open(dataset)
    (tmp_path / "flat").mkdir()
    # An image's own pixels decide its split.
    for number, image in enumerate(np.concatenate([data.train.images, data.held_out.images])[::2]):
        Image.fromarray(image[..., 0]).save(tmp_path / "flat" / f"{number:04}.png")
    flat = prepared(tmp_path, source="folder", path=str(tmp_path / "flat"))
    data = Dataset.open(flat)
    assert data.info.classes == ("images",)
    path = tmp_path / "evaluator.onnx"
    train_evaluator(flat, path, BRIEF.model_copy(update={"steps": 228}))
    opened = Evaluator.open(path, data.info.content_hash)
    assert opened.facts.task == "turns"
    assert 0.5 < opened.facts.accuracy < 1
    features, classes = opened.look_at(data.held_out.images)
    assert features.shape == (len(data.held_out), 16)
    assert not classes.any()
    logits = opened._session.run(["logits"], {"image": np.ascontiguousarray(data.held_out.images)})[0]
    assert logits.shape == (len(data.held_out), 1)
