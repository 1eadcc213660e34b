"""ONNX Runtime sessions as Troika uses them: one thread, no chatter."""

from pathlib import Path
from typing import Any


def open_session(model: Path | bytes) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU that leaves the other cores to other work."""
    import onnxruntime  # noqa: PLC0415 - slow to import, optional dependency

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
