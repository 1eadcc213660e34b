"""ONNX Runtime sessions as Troika uses them: one thread, no chatter; and how the served graph is asked."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def open_session(model: Path | bytes) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU that leaves the other cores to other work."""
    import onnxruntime  # noqa: PLC0415 - slow to import, optional dependency

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def onnxruntime_errors() -> tuple[type[Exception], ...]:
    """What `open_session` raises where it is given no graph, a damaged one, or one that it cannot run."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415

    return (state.InvalidProtobuf, state.InvalidGraph, state.Fail, state.InvalidArgument, state.NotImplemented)


def run_generator(
    session: Any,
    seeds: NDArray[np.int64],
    labels: NDArray[np.int64] | None = None,
    latents: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    """Images uint8 (N, H, W, C) of a served graph, see troika/models/export.py.

    Args:
        session: what `open_session` returned for the graph.
        seeds: (N,), each in 0..2^63-1, or -1 where the row of `latents` is to be used.
        labels: (N,), each in 0..classes-1; not looked at where the graph is unconditional.
        latents: (N, latent size).
    """
    shapes = {entry.name: entry.shape for entry in session.get_inputs()}
    if latents is None:
        latents = np.zeros((len(seeds), shapes["latent"][1]), dtype=np.float32)
    feed: dict[str, NDArray[Any]] = {"seed": seeds[:, np.newaxis], "latent": latents}
    if "label" in shapes and labels is not None:
        feed["label"] = labels[:, np.newaxis]
    images: NDArray[np.uint8] = session.run(["image"], feed)[0]
    return images
