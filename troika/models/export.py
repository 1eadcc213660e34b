"""Make the served ONNX graph: seed (and label) -> image, with the latents drawn inside; and prove its parity.

    seed   (batch, 1) -> sampler of latents.py -+
                                                +-> core (export_core) -> quantise of contract.py -> image
    latent (batch, L) - instead, if seed is -1 -+
    label  (batch, 1) --------------------------+

Seeds and labels are int64, latents float32, the image is uint8 (batch, H, W, C); an unconditional model has no
label. A row with a seed in 0..2^63-1 does not look at its latent.

Labels must lie in 0..classes-1 and latents be finite; a graph cannot refuse others, so the server has to.
Knows no framework: it works on the core's file.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from troika.errors import BundleError
from troika.models.contract import GenerativeModel, ModelSpec
from troika.models.latents import GAMMA, MIX_1, MIX_2, TWO_PI, draw_latents
from troika.onnx_session import open_session, run_generator

OPSET = 18  # the first one with BitwiseXor
IR_VERSION = 8  # that of opset 18: every ONNX Runtime since 1.14 reads it
TOLERANCE = 1
"""Largest difference that parity allows, in levels of 0..255: a value near a half may fall either way."""
_SINGLE_REQUESTS = 16


def build_onnx(core: Path, spec: ModelSpec, out: Path) -> None:
    """Write the graph that is served: the core between the sampler and the quantisation.

    The same core gives the same bytes: names are numbered, nothing of machine or exporter is kept.

    Args:
        core: what `GenerativeModel.export_core` wrote.
        spec: the same model's.
        out: where the ONNX file goes.

    Raises:
        BundleError: the core's inputs and output are not those of the contract, or ONNX's checker refuses the
            result.
    """
    model = onnx.load(core)
    _check_core(model, core, spec)
    graph = _Graph()
    drawn = _add_sampler(graph, spec.latent_size)
    given = graph.add("Less", "seed", graph.integers(np.array(0)))
    sources = {"latent": graph.add("Where", given, "latent", drawn)}
    if spec.conditional:
        sources["label"] = graph.add("Squeeze", "label", graph.integers(np.array([1])))
    image_float = _add_core(graph, model.graph, sources)
    _add_quantisation(graph, image_float)

    height, width, channels = spec.image_shape
    inputs = [helper.make_tensor_value_info("seed", TensorProto.INT64, ["batch", 1])]
    if spec.conditional:
        inputs.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["batch", 1]))
    inputs.append(helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["batch", spec.latent_size]))
    output = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", height, width, channels])
    name = f"{spec.family}_{spec.framework}_{spec.preset}"
    served = helper.make_model(
        helper.make_graph(graph.nodes, name, inputs, [output], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="troika",
    )
    try:
        onnx.checker.check_model(served, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BundleError(f"the graph made of {core} is not valid ONNX: {error}") from None
    out.write_bytes(served.SerializeToString(deterministic=True))


def parity(model: GenerativeModel, onnx_path: Path, samples: int, seed: int) -> dict[str, object]:
    """Compare the framework with ONNX Runtime, rung by rung.

    Rungs: `batch_n` (all samples in one request), `batch_1` (the first 16, one request each), `permuted` (all
    in another order, put back), each against the framework; `batch_1_to_n`: ONNX Runtime against itself.

    Args:
        model: the trained model.
        onnx_path: what `build_onnx` made of it.
        samples: number of random seeds (and labels), at least 2.
        seed: what those are drawn from.

    Returns:
        The content of parity.json: samples, seed, tolerance, and for every rung the largest difference in
        levels of 0..255 and the share of pixels that differ at all.

    Raises:
        BundleError: names the first rung whose largest difference is above TOLERANCE, or the graph cannot be
        run.
    """
    generator = np.random.default_rng(seed)
    seeds = generator.integers(0, 2**63, samples, dtype=np.int64)
    labels = generator.integers(0, model.spec.num_classes, samples) if model.spec.conditional else None
    order = generator.permutation(samples)
    single = min(samples, _SINGLE_REQUESTS)

    session = _open(onnx_path)
    framework = model.sample(draw_latents(seeds, model.spec.latent_size), labels)
    batch_n = run_generator(session, seeds, labels)
    batch_1 = np.concatenate(
        [
            run_generator(session, seeds[i : i + 1], None if labels is None else labels[i : i + 1])
            for i in range(single)
        ]
    )
    permuted = np.empty_like(batch_n)
    permuted[order] = run_generator(session, seeds[order], None if labels is None else labels[order])

    rungs: dict[str, dict[str, float]] = {}
    for rung, expected, found in [
        ("batch_n", framework, batch_n),
        ("batch_1", framework[:single], batch_1),
        ("permuted", framework, permuted),
        ("batch_1_to_n", batch_n[:single], batch_1),
    ]:
        difference = np.abs(expected.astype(np.int16) - found.astype(np.int16))
        largest, share = int(difference.max()), float((difference > 0).mean())
        if largest > TOLERANCE:
            raise BundleError(
                f"parity rung {rung}: images differ by up to {largest} levels of 255, in {share:.2%} of all "
                f"pixels; at most {TOLERANCE} is allowed. {onnx_path} was not made of this model, "
                "or its export is wrong"
            )
        rungs[rung] = {"max_difference": largest, "share_differing": share}
    return {"samples": samples, "seed": seed, "tolerance": TOLERANCE, "rungs": rungs}


def _open(path: Path) -> Any:
    try:
        return open_session(path)
    except Exception as error:  # ONNX Runtime's exceptions share no narrower base class
        raise BundleError(f"ONNX Runtime cannot open {path}: {error}") from None


class _Graph:
    """Nodes and constants under construction; every value gets a name with the next number."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, array: NDArray[np.generic]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, array: NDArray[np.int64]) -> str:
        return self.constant(array.astype(np.int64))

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = f"value_{len(self.nodes)}" if output is None else output
        self.nodes.append(
            helper.make_node(operator, list(inputs), [name], name=f"node_{len(self.nodes)}", **attributes)
        )
        return name


def _add_sampler(graph: _Graph, latent_size: int) -> str:
    """latents.draw_latents as nodes. Returns the name of a float32 (batch, latent_size)."""
    pairs = (latent_size + 1) // 2
    halves: list[str] = []
    for parity_of_j in (0, 1):
        offsets = [(j + 1) * GAMMA % 2**64 for j in range(parity_of_j, 2 * pairs, 2)]
        start = graph.add("Add", "seed", graph.constant(_wrapped(offsets)[None, :]))
        halves.append(_add_mix64(graph, start))
    first = graph.add("Cast", graph.add("Add", halves[0], graph.integers(np.array(1))), to=TensorProto.DOUBLE)
    second = graph.add("Cast", halves[1], to=TensorProto.DOUBLE)
    scale = graph.constant(np.array(2.0**-53))
    logarithm = graph.add("Log", graph.add("Mul", first, scale))
    radius = graph.add("Sqrt", graph.add("Mul", logarithm, graph.constant(np.array(-2.0))))
    angle = graph.add("Mul", graph.add("Mul", second, scale), graph.constant(np.array(TWO_PI)))
    last_axis = graph.integers(np.array([2]))
    columns = [
        graph.add("Unsqueeze", graph.add("Mul", radius, graph.add(function, angle)), last_axis)
        for function in ("Cos", "Sin")
    ]
    both = graph.add("Concat", *columns, axis=2)
    flat = graph.add("Reshape", both, graph.integers(np.array([0, 2 * pairs])))
    if latent_size % 2:
        start, end, axis = (graph.integers(np.array([value])) for value in (0, latent_size, 1))
        flat = graph.add("Slice", flat, start, end, axis)
    return graph.add("Cast", flat, to=TensorProto.FLOAT)


def _add_mix64(graph: _Graph, value: str) -> str:
    """latents.mix64 and the shift by 11, int64 to int64.

    Signed, since not every runtime multiplies uint64, and two's complement wraps to the same bits; only a
    shift must be unsigned to fill with zeros.
    """
    for shift, factor in ((30, MIX_1), (27, MIX_2)):
        mixed = graph.add("BitwiseXor", value, _add_shift(graph, value, shift))
        value = graph.add("Mul", mixed, graph.constant(_wrapped([factor])[0]))
    return _add_shift(graph, graph.add("BitwiseXor", value, _add_shift(graph, value, 31)), 11)


def _add_shift(graph: _Graph, value: str, bits: int) -> str:
    unsigned = graph.add("Cast", value, to=TensorProto.UINT64)
    shifted = graph.add("BitShift", unsigned, graph.constant(np.array(bits, dtype=np.uint64)), direction="RIGHT")
    return graph.add("Cast", shifted, to=TensorProto.INT64)


def _wrapped(values: list[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.uint64).view(np.int64)


def _add_core(graph: _Graph, core: GraphProto, sources: dict[str, str]) -> str:
    """Copy the core's nodes under new names, fed by `sources`. Returns the name of its output."""
    names = {"": ""} | sources
    for constant in core.initializer:
        names[constant.name] = graph.constant(numpy_helper.to_array(constant))
    for node in core.node:
        if any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute):
            raise BundleError(f"the core uses {node.op_type} with a graph inside; export it without control flow")
        for output in node.output:
            names[output] = f"value_{len(graph.nodes)}_{len(names)}"
        copied = helper.make_node(
            node.op_type,
            [names[name] for name in node.input],
            [names[name] for name in node.output],
            name=f"node_{len(graph.nodes)}",
            domain=node.domain,
        )
        copied.attribute.extend(node.attribute)
        for attribute in copied.attribute:
            attribute.doc_string = ""
        graph.nodes.append(copied)
    return names[core.output[0].name]


def _add_quantisation(graph: _Graph, image_float: str) -> None:
    """contract.quantise as nodes."""
    shifted = graph.add("Add", image_float, graph.constant(np.array(1, dtype=np.float32)))
    scaled = graph.add("Mul", shifted, graph.constant(np.array(127.5, dtype=np.float32)))
    low, high = (graph.constant(np.array(level, dtype=np.float32)) for level in (0, 255))
    graph.add(
        "Cast", graph.add("Round", graph.add("Clip", scaled, low, high)), output="image", to=TensorProto.UINT8
    )


def _check_core(model: ModelProto, core: Path, spec: ModelSpec) -> None:
    expected = ["latent", "label"] if spec.conditional else ["latent"]
    inputs = [value.name for value in model.graph.input]
    outputs = [value.name for value in model.graph.output]
    if inputs != expected or outputs != ["image_float"]:
        raise BundleError(f"{core} maps {inputs} to {outputs}; expected {expected} to ['image_float']")
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    if set(opsets) != {""} or opsets[""] != OPSET or model.functions:
        raise BundleError(f"{core} uses operator sets {opsets}; export it with ONNX's own, version {OPSET}")
