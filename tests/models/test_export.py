from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_gans import fit_small

from troika.datasets.contract import Dataset
from troika.errors import BundleError
from troika.models.contract import ModelSpec, quantise
from troika.models.export import build_onnx, parity
from troika.models.gan.pytorch_gan import PyTorchGAN
from troika.models.latents import SEED_MAX, draw_latents
from troika.onnx_session import open_session, run_generator

PRESETS = ("r3gan", "article")
SEEDS = np.array([0, 1, 2, 3, 2**31, 2**32 + 5, SEED_MAX - 1, SEED_MAX], dtype=np.int64)
Exported = tuple[PyTorchGAN, Path]


@pytest.fixture(scope="module")
def exported(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    found = {}
    for preset in PRESETS:
        folder = tmp_path_factory.mktemp(preset)
        model = fit_small(digits, preset, folder / "state")
        model.export_core(folder / "core.onnx")
        build_onnx(folder / "core.onnx", model.spec, folder / "model.onnx")
        found[preset] = (model, folder / "model.onnx")
    return found


def labels_of(model: PyTorchGAN) -> np.ndarray | None:
    return np.arange(len(SEEDS)) % model.spec.num_classes if model.spec.conditional else None


@pytest.mark.parametrize("preset", PRESETS)
def test_graph_gives_the_images_of_the_framework(exported: dict[str, Exported], preset: str) -> None:
    model, path = exported[preset]
    found = parity(model, path, samples=64, seed=0)
    assert set(found["rungs"]) == {"batch_n", "batch_1", "permuted", "batch_1_to_n"}
    images = run_generator(open_session(path), SEEDS, labels_of(model))
    assert images.shape == (len(SEEDS), 8, 8, 1)
    assert images.dtype == np.uint8
    assert images.std() > 5  # not all of one grey


@pytest.mark.parametrize("preset", PRESETS)
def test_an_image_does_not_depend_on_the_batch_around_it(exported: dict[str, Exported], preset: str) -> None:
    model, path = exported[preset]
    session, labels = open_session(path), labels_of(model)
    together = run_generator(session, SEEDS, labels).astype(int)
    order = np.random.default_rng(1).permutation(len(SEEDS))
    permuted = run_generator(session, SEEDS[order], None if labels is None else labels[order])
    assert np.abs(permuted - together[order]).max() <= 1
    for i in range(len(SEEDS)):
        alone = run_generator(session, SEEDS[i : i + 1], None if labels is None else labels[i : i + 1])
        assert np.abs(alone - together[i]).max() <= 1


def test_latents_in_the_graph_are_those_of_the_reference(tmp_path: Path) -> None:
    for size in (1, 7, 64):
        # A core that hands its latents through, read before quantisation.
        core = helper.make_graph(
            [helper.make_node("Reshape", ["latent", "shape"], ["image_float"])],
            "core",
            [helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["batch", size])],
            [helper.make_tensor_value_info("image_float", TensorProto.FLOAT, ["batch", 1, size, 1])],
            [numpy_helper.from_array(np.array([-1, 1, size, 1]), "shape")],
        )
        onnx.save(
            helper.make_model(core, opset_imports=[helper.make_opsetid("", 18)], ir_version=8),
            tmp_path / "core.onnx",
        )
        spec = ModelSpec(
            family="none", framework="onnx", preset="identity", image_shape=(1, size, 1),
            latent_size=size, num_classes=1, conditional=False,
        )  # fmt: skip
        build_onnx(tmp_path / "core.onnx", spec, tmp_path / "model.onnx")
        graph = onnx.load(tmp_path / "model.onnx")
        (reshape,) = [node for node in graph.graph.node if node.op_type == "Reshape"][-1:]
        graph.graph.output.append(helper.make_tensor_value_info(reshape.output[0], TensorProto.FLOAT, None))
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        seeds = np.concatenate([SEEDS, np.random.default_rng(0).integers(0, 2**63, 2000)])
        images, latents = session.run(
            None, {"seed": seeds[:, None], "latent": np.full((len(seeds), size), np.nan, dtype=np.float32)}
        )
        expected = draw_latents(seeds, size)
        found = latents.reshape(len(seeds), size)
        # ONNX Runtime and numpy bring their own log, cos and sin: a value in 10^7 differs, in its last bit.
        np.testing.assert_array_max_ulp(found, expected, maxulp=1)
        assert (found != expected).sum() <= 1
        assert np.array_equal(images, quantise(latents))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_latent_can_be_given_in_place_of_a_seed(exported: dict[str, Exported], preset: str) -> None:
    model, path = exported[preset]
    session, labels = open_session(path), labels_of(model)
    drawn = draw_latents(SEEDS, model.spec.latent_size)
    by_seed = run_generator(session, SEEDS, labels)
    instead = np.full_like(SEEDS, -1)
    assert np.abs(run_generator(session, instead, labels, drawn).astype(int) - by_seed).max() <= 1
    # Every second row by its seed, and never a look at the latents of those.
    mixed = np.where(np.arange(len(SEEDS)) % 2, SEEDS, -1)
    latents = np.where(mixed[:, None] < 0, drawn, np.float32(np.nan))
    assert np.abs(run_generator(session, mixed, labels, latents).astype(int) - by_seed).max() <= 1
    # Negative control: other latents, other images.
    assert np.abs(run_generator(session, instead, labels, drawn[::-1].copy()).astype(int) - by_seed).max() > 5


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_weights_give_the_same_bytes(exported: dict[str, Exported], preset: str, tmp_path: Path) -> None:
    model, path = exported[preset]
    model.save(tmp_path)
    PyTorchGAN.load(tmp_path).export_core(tmp_path / "another_name.onnx")
    build_onnx(tmp_path / "another_name.onnx", model.spec, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("preset", PRESETS)
def test_graph_tells_nothing_of_where_it_was_made(exported: dict[str, Exported], preset: str) -> None:
    path = exported[preset][1]
    content = path.read_bytes()
    for word in [str(path.parent), "site-packages", "torch.", ".py", "/home", "/tmp", str(Path.cwd())]:
        assert word.encode() not in content
    model = onnx.load(path)
    assert not model.metadata_props
    assert not model.doc_string
    batch = [value.type.tensor_type.shape.dim[0].dim_param for value in [*model.graph.input, *model.graph.output]]
    assert set(batch) == {"batch"}


def test_parity_goes_red_when_the_weights_differ(
    exported: dict[str, Exported], digits: Dataset, tmp_path: Path
) -> None:
    model, path = exported["r3gan"]
    model.save(tmp_path)
    other = PyTorchGAN.load(tmp_path)
    weight = other._generator.body[-2].bias
    weight.data.add_(0.05)
    with pytest.raises(BundleError, match="parity rung batch_n"):
        parity(other, path, samples=16, seed=0)


def test_a_core_with_other_inputs_is_refused(exported: dict[str, Exported], tmp_path: Path) -> None:
    model, path = exported["r3gan"]
    with pytest.raises(BundleError, match="expected"):
        build_onnx(path, model.spec, tmp_path / "model.onnx")


def test_a_file_that_is_no_graph_is_refused(exported: dict[str, Exported], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match="cannot open"):
        parity(exported["r3gan"][0], tmp_path / "model.onnx", samples=2, seed=0)
