"""Features of a given network: the graph's own figures, and a reason wherever they would say nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from patterns import pattern_side

from troika.errors import EvaluatorError
from troika.quality.inception import InceptionFeatures
from troika.quality.measures import frechet_distance
from troika.quality.spoiled import images_of
from troika.quality.tally import Tally

SHAPE = (40, 36, 3)
WEIGHTS = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)


def write(
    path: Path,
    shape: list[int | str] | None = None,
    kind: int = TensorProto.UINT8,
    output: str = "features",
    others: int = 0,
) -> Path:
    """A small network: mean colour, scaled to 0..1, through a random layer. It stands for one that was trained."""
    shape = ["batch", 3, "height", "width"] if shape is None else shape
    axes = [1, 2] if shape[3] == 3 else [2, 3]
    inputs = [helper.make_tensor_value_info(f"image{number or ''}", kind, shape) for number in range(1 + others)]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "scale"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "weights"], ["features"]),
    ]
    constants = [
        numpy_helper.from_array(np.array(axes, np.int64), "axes"),
        numpy_helper.from_array(np.array(255, np.float32), "scale"),
        numpy_helper.from_array(WEIGHTS, "weights"),
    ]
    ranks: dict[str, list[int | str]] = {"features": ["batch", 6], "float": shape}
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ranks[output])]
    graph = helper.make_graph(nodes, "given", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def photographs(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 256, (count, *SHAPE)) * rng.random((count, 1, 1, 3))).astype(np.uint8)


@pytest.mark.parametrize(
    "shape",
    [None, ["batch", 3, 40, 36], ["batch", "height", "width", 3], ["batch", 40, 36, 3], [None, None, None, 3]],
)
def test_features_are_those_of_the_graph(tmp_path: Path, shape: list[int | str] | None) -> None:
    features = InceptionFeatures(write(tmp_path / "given.onnx", shape), SHAPE)
    images = photographs(150, 0)  # more than two batches
    found = features.look_at(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, images.mean(axis=(1, 2)) / 255 @ WEIGHTS, atol=1e-4)


def test_they_serve_the_measures_and_are_told_apart_by_digest(tmp_path: Path) -> None:
    features = InceptionFeatures(write(tmp_path / "given.onnx"), SHAPE)
    one, other = features.look_at(photographs(100, 0)), features.look_at(photographs(100, 1))
    dark = features.look_at(photographs(100, 1) // 3)
    assert frechet_distance(one, other) < 0.1 * frechet_distance(dark, other)
    again = InceptionFeatures(write(tmp_path / "again.onnx"), SHAPE)
    last = InceptionFeatures(write(tmp_path / "last.onnx", ["batch", 40, 36, 3]), SHAPE)
    assert features.digest == again.digest != last.digest


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (
            (28, 28, 1),
            "colour photographs say nothing about images of 1 channel, .*; use the evaluator's own features",
        ),
        ((64, 64, 1), "say nothing about images of 1 channel,"),
        ((64, 64, 4), "say nothing about images of 4 channels,"),
        (
            (28, 28, 3),
            "images of 28 x 28 pixels would be enlarged .*; 32 x 32 are needed, or use the evaluator's own",
        ),
        ((64, 31, 3), "images of 64 x 31 pixels"),
    ],
)
def test_small_and_grey_images_are_refused_with_the_reason(
    tmp_path: Path, shape: tuple[int, int, int], reason: str
) -> None:
    with pytest.raises(EvaluatorError, match=reason):
        InceptionFeatures(write(tmp_path / "given.onnx"), shape)


def test_no_weights_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(
        EvaluatorError, match=r"cannot be read: No such file .*\(none is downloaded\), or use the eval"
    ):
        InceptionFeatures(tmp_path / "inception.onnx", SHAPE)
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(EvaluatorError, match="cannot be run as an ONNX graph: "):
        InceptionFeatures(weights, SHAPE)


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        (
            ["batch", 3, 299, 299],
            {},
            r"uint8 \(batch, 3, 40, 36\) .* this one takes image: tensor\(uint8\) .*299, 299",
        ),
        (
            None,
            {"kind": TensorProto.FLOAT},
            r"scales and resizes by itself; this one takes image: tensor\(float\)",
        ),
        (None, {"others": 1}, r"takes image: .*, image1: "),
        (None, {"output": "float"}, r"an output of features \(batch, D\) is needed; this graph gives float: "),
    ],
)
def test_other_graphs_are_refused(
    tmp_path: Path, shape: list[int | str] | None, changes: dict[str, int | str], message: str
) -> None:
    path = write(tmp_path / "given.onnx", shape, **changes)
    with pytest.raises(EvaluatorError, match=message):
        InceptionFeatures(path, SHAPE)


def test_other_images_are_refused(tmp_path: Path) -> None:
    features = InceptionFeatures(write(tmp_path / "given.onnx"), SHAPE)
    with pytest.raises(ValueError, match=r"uint8 \(N, 40, 36, 3\) is needed, not float64 \(2, 40, 36, 3\)"):
        features.look_at(photographs(2, 0) / 255)
    with pytest.raises(ValueError, match=r"not uint8 \(2, 36, 40, 3\)"):
        features.look_at(photographs(2, 0).transpose(0, 2, 1, 3))


def test_a_given_network_is_reported_beside_the_evaluator(tmp_path: Path) -> None:
    """On colour images, with what real ones score, and named by its digest; it limits nothing by itself."""
    side = replace(pattern_side(SHAPE), inception=InceptionFeatures(write(tmp_path / "given.onnx"), SHAPE))
    tally = Tally(side, conditional=True)
    rng = np.random.default_rng(0)
    for _ in range(2):
        labels = rng.integers(0, 3, 100)
        tally.add(images_of(side.held_out)(rng, labels), labels)
    (found,) = [entry for entry in tally.measures() if entry.name == "inception_frechet_distance"]
    assert found.value is not None
    assert found.floor is not None
    assert 0 <= found.value < 10 * found.floor + 1e-3
    assert side.inception is not None
    assert found.note.endswith(side.inception.digest[:19])
    dark = Tally(side, conditional=True)
    for _ in range(2):
        dark.add(images_of(side.held_out)(rng, labels) // 3, labels)
    (worse,) = [entry for entry in dark.measures() if entry.name == "inception_frechet_distance"]
    assert worse.value is not None
    assert worse.value > 10 * found.value
