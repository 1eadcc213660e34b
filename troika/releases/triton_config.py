"""The config.pbtxt files of a bundle: how Triton serves the model, and on what it runs the graph.

What stands here was measured; see docs/guides/calling-triton.md for what a client sees of it.
"""

import json
from collections.abc import Mapping
from typing import Any

# One batch of a large image already fills a processor's cache: 64 images of 32x32x3, 16 of 64x64x3.
VALUES_PER_BATCH = 64 * 32 * 32 * 3
MAX_BATCH = 64
CACHE_BYTES = 4 * 2**20
BACKENDS = ("onnxruntime", "cuda", "tensorrt")
"""Names for `--model-config-name`: the graph on Triton's onnxruntime backend, on CPU, with CUDA or TensorRT."""


def model_config(model: str, spec: Mapping[str, Any], graph_model: str | None = None) -> str:
    """Configuration of what clients ask; `graph_model` runs the graph, None runs it in the same process."""
    height, width, channels = (int(size) for size in spec["image_shape"])
    batch, inputs = _batch(spec), _inputs(spec)
    declared = ",\n".join(
        f'  {{ name: "{name}" data_type: {kind} dims: [ {size} ]{"" if name == "label" else " optional: true"} }}'
        for name, (kind, size) in inputs.items()
    )
    values = {
        "conditional": str(bool(spec["conditional"])).lower(),
        "num_classes": int(spec["num_classes"]),
        "cache_bytes": CACHE_BYTES,
        **_class_names(spec),
        **({"graph_model": graph_model} if graph_model else {}),
    }
    # For the way around the graph: model.py runs a whole batch through the graph itself.
    # Before Triton is ready, one model cannot ask another: with a graph model, that one warms itself up.
    warmup = "" if graph_model else _warmup(batch, {name: of for name, of in inputs.items() if name != "latent"})
    parameters = "\n".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in values.items()
    )
    return f"""\
name: "{model}"
backend: "python"
max_batch_size: {batch}
input [
{declared}
]
output [
  {{ name: "image" data_type: TYPE_UINT8 dims: [ {height}, {width}, {channels} ] }},
  {{ name: "model_digest" data_type: TYPE_UINT8 dims: [ 32 ] }},
  {{ name: "seed_used" data_type: TYPE_INT64 dims: [ 1 ] }},
  {{ name: "png" data_type: TYPE_UINT8 dims: [ -1 ] }},
  {{ name: "png_size" data_type: TYPE_INT64 dims: [ 1 ] }}
]
instance_group [ {{ kind: KIND_CPU count: 2 }} ]
# No delay: under load, requests that wait for a free instance form batches by themselves.
dynamic_batching {{
  max_queue_delay_microseconds: 0
  default_queue_policy {{
    max_queue_size: 1024
    default_timeout_microseconds: 10000000
    timeout_action: REJECT
    allow_timeout_override: true
  }}
}}
# Not Triton's response cache, which keeps a refusal and gives it out as a success; model.py has its own.
{warmup}# What a client needs to know and Triton has no field for, and what model.py needs to know.
{parameters}
"""


def graph_config(model: str, spec: Mapping[str, Any], backend: str) -> str:
    """Configuration of the graph as a model of Triton's onnxruntime backend; `backend` is one of BACKENDS."""
    height, width, channels = (int(size) for size in spec["image_shape"])
    batch, inputs = _batch(spec), _inputs(spec)
    declared = ",\n".join(
        f'  {{ name: "{name}" data_type: {kind} dims: [ {size} ] }}' for name, (kind, size) in inputs.items()
    )
    device = "KIND_CPU" if backend == "onnxruntime" else "KIND_GPU"
    accelerator = _TENSORRT if backend == "tensorrt" else ""
    threads = '{ key: "intra_op_thread_count" value { string_value: "1" } }'
    return f"""\
name: "{model}_graph"
backend: "onnxruntime"
max_batch_size: {batch}
input [
{declared}
]
output [ {{ name: "image" data_type: TYPE_UINT8 dims: [ {height}, {width}, {channels} ] }} ]
instance_group [ {{ kind: {device} count: 2 }} ]
# Requests come here in the batches that the model in front has formed.
parameters {threads}
{accelerator}{_warmup(batch, inputs)}"""


_TENSORRT = """\
optimization { execution_accelerators { gpu_execution_accelerator [ {
  name: "tensorrt"
  parameters { key: "precision_mode" value: "FP16" }
  parameters { key: "trt_engine_cache_enable" value: "true" }
  parameters { key: "trt_engine_cache_path" value: "/tmp/tensorrt" }
} ] } }
"""


def _class_names(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return the class names in the order of labels: JSON text, escaped for the text format."""
    if not spec["conditional"] or "classes" not in spec:
        return {}
    return {"classes": json.dumps(json.dumps(list(spec["classes"])))[1:-1]}


def _batch(spec: Mapping[str, Any]) -> int:
    height, width, channels = (int(size) for size in spec["image_shape"])
    fitting = max(1, VALUES_PER_BATCH // (height * width * channels))
    return min(MAX_BATCH, 1 << (fitting.bit_length() - 1))


def _inputs(spec: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    label = {"label": ("TYPE_INT64", 1)} if spec["conditional"] else {}
    return {"seed": ("TYPE_INT64", 1), **label, "latent": ("TYPE_FP32", int(spec["latent_size"]))}


def _warmup(batch: int, inputs: Mapping[str, tuple[str, int]]) -> str:
    zeros = "\n".join(
        f'  inputs {{ key: "{name}" value {{ data_type: {kind} dims: [ {size} ] zero_data: true }} }}'
        for name, (kind, size) in inputs.items()
    )
    return f'model_warmup [ {{\n  name: "largest_batch"\n  batch_size: {batch}\n{zeros}\n}} ]\n'
