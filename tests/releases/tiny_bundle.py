"""A complete bundle around a tiny graph that honours the serving contract, and what the graph must answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from troika.releases.bundle import Bundle, seal, write_triton_entry

SHAPE = (4, 3, 1)
CLASSES = 10
NAMES = tuple(map(str, range(CLASSES)))
LATENT_SIZE = 2


def expected_images(seeds: Sequence[int], labels: Sequence[int] | None) -> NDArray[np.uint8]:
    """What the tiny graph must answer, (N, 4, 3, 1), computed without ONNX."""
    seed = np.asarray(seeds, dtype=np.int64)[:, None]
    label = np.asarray(labels if labels is not None else [0] * len(seeds), dtype=np.int64)[:, None]
    pixel = np.arange(np.prod(SHAPE), dtype=np.int64)[None]
    images: NDArray[np.uint8] = ((seed % 251 * 7 + label * 31 + pixel * 5) % 256).astype(np.uint8)
    return images.reshape(-1, *SHAPE)


def expected_of_latents(latents: Sequence[Sequence[float]]) -> NDArray[np.uint8]:
    """The same for latents, of which the tiny graph uses the whole part of the first number."""
    whole = np.asarray(latents, dtype=np.float32)[:, :1].astype(np.int64)
    images: NDArray[np.uint8] = ((whole + np.arange(np.prod(SHAPE), dtype=np.int64) * 5) % 256).astype(np.uint8)
    return images.reshape(-1, *SHAPE)


def tiny_graph(path: Path, conditional: bool) -> None:
    """Write (seed, label) -> image as ONNX; the same arithmetic as `expected_images`."""

    def constant(name: str, values: Any) -> onnx.TensorProto:
        return numpy_helper.from_array(np.asarray(values, dtype=np.int64), name)

    nodes = [
        helper.make_node("Mod", ["seed", "c251"], ["small"]),
        helper.make_node("Mul", ["small", "c7"], ["scaled"]),
        helper.make_node("Add", ["scaled", "pixels"], ["seeded"]),
    ]
    inputs = [helper.make_tensor_value_info("seed", TensorProto.INT64, ["batch", 1])]
    last = "seeded"
    if conditional:
        inputs.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["batch", 1]))
        nodes += [
            helper.make_node("Mul", ["label", "c31"], ["shift"]),
            helper.make_node("Add", ["seeded", "shift"], ["labelled"]),
        ]
        last = "labelled"
    inputs.append(helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["batch", LATENT_SIZE]))
    nodes += [
        helper.make_node("Less", ["seed", "zero"], ["given"]),
        helper.make_node("Slice", ["latent", "zero", "one", "one"], ["first"]),
        helper.make_node("Cast", ["first"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Add", ["whole", "pixels"], ["by_latent"]),
        helper.make_node("Where", ["given", "by_latent", last], ["chosen"]),
        helper.make_node("Mod", ["chosen", "c256"], ["wrapped"]),
        helper.make_node("Cast", ["wrapped"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Reshape", ["bytes", "shape"], ["image"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *SHAPE])],
        [
            constant("zero", [0]),
            constant("one", [1]),
            constant("c251", [251]),
            constant("c7", [7]),
            constant("c31", [31]),
            constant("c256", [256]),
            constant("pixels", [np.arange(np.prod(SHAPE)) * 5]),
            constant("shape", [-1, *SHAPE]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def tiny_spec(conditional: bool, classes: Sequence[str] = NAMES) -> dict[str, Any]:
    return {
        "image_shape": list(SHAPE),
        "latent_size": LATENT_SIZE,
        "num_classes": CLASSES,
        "conditional": conditional,
        "classes": list(classes),
    }


def unsealed(folder: Path, conditional: bool = True, model: str = "tiny", classes: Sequence[str] = NAMES) -> Path:
    """All files of a bundle but its manifest."""
    folder.mkdir(parents=True)
    graph = folder.parent / f"{folder.name}.onnx"
    tiny_graph(graph, conditional)
    write_triton_entry(folder, model, graph, tiny_spec(conditional, classes))
    graph.unlink()
    seeds = [0, 1, 5]
    golden = {"seed": np.array(seeds)[:, None], "image": expected_images(seeds, None)}
    if conditional:
        golden["label"] = np.zeros((len(seeds), 1), dtype=np.int64)
    np.savez(folder / "golden.npz", **golden)
    (folder / "parity.json").write_text("{}\n")
    (folder / "model_card.md").write_text("# tiny\n")
    return folder


def tiny_bundle(
    folder: Path,
    conditional: bool = True,
    model: str = "tiny",
    note: str = "",
    classes: Sequence[str] = NAMES,
) -> Bundle:
    """A sealed bundle; `note` makes digests differ."""
    files = unsealed(folder, conditional, model, classes)
    digest = seal(files, model, tiny_spec(conditional, classes), {"note": note})
    return Bundle.open(folder, digest)
