"""The way between two latents begins and ends at their images, through the graph that is served."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from troika.models.contract import ModelSpec
from troika.models.export import build_onnx
from troika.models.latents import draw_latents
from troika.quality.generator import OnnxGenerator
from troika.quality.interpolation import interpolate, spherical

LATENT = 12


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> OnnxGenerator:
    """A served graph around a core of one layer: image = tanh(latent W + bias of the label)."""
    folder: Path = tmp_path_factory.mktemp("graph")
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(0, 0.3, (LATENT, 24)).astype(np.float32),
        "bias": rng.normal(0, 0.5, (3, 24)).astype(np.float32),
        "shape": np.array([-1, 4, 6, 1], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["latent", "w"], ["product"]),
        helper.make_node("Gather", ["bias", "label"], ["of_label"]),
        helper.make_node("Add", ["product", "of_label"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["image_float"]),
    ]
    graph = helper.make_graph(
        nodes,
        "core",
        [
            helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["n", LATENT]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
        ],
        [helper.make_tensor_value_info("image_float", TensorProto.FLOAT, ["n", 4, 6, 1])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), folder / "core")
    spec = ModelSpec(
        family="gan",
        framework="none",
        preset="none",
        image_shape=(4, 6, 1),
        latent_size=LATENT,
        num_classes=3,
        conditional=True,
    )
    build_onnx(folder / "core", spec, folder / "model.onnx")
    return OnnxGenerator(folder / "model.onnx")


def test_a_row_goes_from_the_image_of_one_seed_to_that_of_another(generator: OnnxGenerator) -> None:
    assert generator.latent_size == LATENT
    seeds, labels = np.arange(6), np.arange(3)
    ends = draw_latents(seeds, generator.latent_size).reshape(3, 2, -1)
    rows = interpolate(generator, ends, labels, steps=9)
    assert rows.shape == (3, 9, 4, 6, 1)
    assert rows.dtype == np.uint8
    images = generator.draw(seeds, np.repeat(labels, 2)).reshape(3, 2, 4, 6, 1)
    assert np.abs(rows[:, 0].astype(int) - images[:, 0]).max() <= 1
    assert np.abs(rows[:, -1].astype(int) - images[:, 1]).max() <= 1
    # No step of the way is as long as the whole.
    steps = np.square(np.diff(rows.astype(float), axis=1)).sum(axis=(2, 3, 4)).max(axis=1)
    assert (steps < np.square(images[:, 0].astype(float) - images[:, 1]).sum(axis=(1, 2, 3)) / 4).all()


def test_labels_are_those_of_the_rows(generator: OnnxGenerator) -> None:
    ends = np.zeros((2, 2, LATENT), np.float32)
    rows = interpolate(generator, ends, np.array([2, 0]), steps=2)
    wanted = generator.draw_from(np.zeros((2, LATENT), np.float32), np.array([2, 0]))
    assert (rows == wanted[:, np.newaxis]).all()
    assert (wanted[0] != wanted[1]).any()


def test_the_way_stays_at_the_distance_where_latents_are() -> None:
    first, last = draw_latents([1, 2], 100)
    way = spherical(first, last, 11)
    assert (way[0] == first).all()
    assert (way[-1] == last).all()
    assert way.dtype == np.float32
    lengths = np.linalg.norm(way, axis=1)
    assert lengths.min() > 0.95 * min(lengths[0], lengths[-1])
    # A straight line would come 0.7 times as near.
    assert np.linalg.norm((first + last) / 2) < 0.8 * lengths.min()
    cosines = (way[1:] * way[:-1]).sum(axis=1) / (lengths[1:] * lengths[:-1])
    angles = np.arccos(cosines)
    assert angles.max() < 1.35 * angles.min()


@pytest.mark.parametrize("factor", [1.0, -1.0, 0.0])
def test_parallel_opposite_and_no_latents_have_a_way_too(factor: float) -> None:
    first = draw_latents([3], 8)[0]
    way = spherical(first, factor * first, 5)
    assert np.isfinite(way).all()
    assert (way[0] == first).all()
    assert (way[-1] == factor * first).all()


@pytest.mark.parametrize(
    ("shape", "labels", "steps", "message"),
    [
        ((2, 2, 3), 2, 1, "steps"),
        ((2, 3, 3), 2, 8, "ends"),
        ((2, 2, 3), 3, 8, "labels"),
        ((0, 2, 3), 0, 8, "ends"),
    ],
)
def test_what_does_not_fit_is_refused(
    generator: OnnxGenerator, shape: tuple[int, int, int], labels: int, steps: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        interpolate(generator, np.zeros(shape, np.float32), np.zeros(labels, np.int64), steps)
