"""From a PyTorch module to the bytes of an ONNX graph with a free batch size."""

import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

OPSET = 18
"""What every ONNX Runtime since 1.14 reads."""


def to_onnx(
    module: nn.Module, examples: Tensor | tuple[Tensor, ...], inputs: list[str], outputs: list[str]
) -> bytes:
    """Export `module` (in eval mode) so that dimension 0 of every input is `batch`.

    Args:
        module: takes the examples by position.
        examples: inputs with a batch of at least 2; a batch of 1 would be frozen into the graph.
        inputs: names of the graph's inputs.
        outputs: names of its outputs.
    """
    arguments = (examples,) if isinstance(examples, Tensor) else examples
    batch = torch.export.Dim("batch", min=1, max=2**31)
    shapes: Any = tuple({0: batch} for _ in arguments)
    # The exporter tells of operators of torchvision, which is not used here, and of its own deprecations.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            arguments,
            dynamo=True,
            verbose=False,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            opset_version=OPSET,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = program.model_proto
    # Where the source lies on this machine, which must change no digest and is nobody's business.
    for part in (model.graph, *model.functions):
        for entry in (part, *part.node, *part.value_info):
            entry.ClearField("metadata_props")
            entry.ClearField("doc_string")
    return bytes(model.SerializeToString(deterministic=True))
