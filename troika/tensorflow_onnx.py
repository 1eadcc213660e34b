"""From a TensorFlow function to the bytes of an ONNX graph with a free batch size."""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import tensorflow as tf

OPSET = 18
"""What every ONNX Runtime since 1.14 reads."""


def to_onnx(
    function: Callable[..., Any], inputs: dict[str, tuple[tf.DType, tuple[int, ...]]], output: str
) -> bytes:
    """Export `function`, whose inputs and output have the batch as their first axis.

    Args:
        function: takes the inputs by position, returns one tensor; its variables become constants.
        inputs: name -> type and shape of one input, without the batch axis.
        output: name of the graph's output.
    """
    import tf2onnx  # noqa: PLC0415 - of the export only

    signature = [tf.TensorSpec((None, *shape), dtype, name) for name, (dtype, shape) in inputs.items()]
    # The exporter tells what it rewrites, and of numpy's deprecations.
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, _ = tf2onnx.convert.from_function(tf.function(function), signature, opset=OPSET)
    # The exporter calls the output what TensorFlow called it.
    (result,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = [output if name == result.name else name for name in node.output]
    result.name = output
    # And declares operator sets that no node is of.
    domains = {node.domain for node in model.graph.node}
    for entry in [entry for entry in model.opset_import if entry.domain not in domains]:
        model.opset_import.remove(entry)
    return bytes(model.SerializeToString(deterministic=True))
