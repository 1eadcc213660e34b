"""Triton's side of a model: (seed, label) -> image and the digest of the bundle that made it.

Copied verbatim into every bundle as `1/model.py`, so that a bundle holds the very code that serves it. Runs
inside Triton's Python backend, where Troika is not installed: only numpy and ONNX Runtime are.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found,unused-ignore]


class TritonPythonModel:
    """One instance of the model; Triton calls `initialize` once, `execute` with every batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph. An exception here makes Triton exit, and the old pods serve on."""
        config = json.loads(args["model_config"])
        self._classes = int(config["parameters"]["num_classes"]["string_value"])
        self._inputs = [entry["name"] for entry in config["input"]]

        # <bundle>/model_repository/<model> is what Triton calls the model repository.
        model = Path(args["model_repository"])
        manifest = (model.parent.parent / "manifest.json").read_bytes()
        self._digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}".encode()

        options = ort.SessionOptions()
        # Several instances of one thread each beat one of several threads, which spin while idle.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        graph = model / args["model_version"] / "model.onnx"
        self._session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request; a wrong one gets its own error and does not harm those it was batched with.

        Each request holds `seed` int64 (n, 1) and, when conditional, `label` int64 (n, 1); its answer is
        `image` uint8 (n, H, W, C) and `model_digest` (n, 1).
        """
        rows = [
            {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
            for request in requests
        ]
        problems = [self._problem(row) for row in rows]
        good = [row for row, problem in zip(rows, problems, strict=True) if problem is None]
        images = iter(self._generate(good))
        return [self._answer(next(images)) if problem is None else self._refusal(problem) for problem in problems]

    def _problem(self, row: dict[str, Any]) -> str | None:
        """What is wrong with one request, or None. Unchecked, label -1 would silently mean the last class."""
        seed = row["seed"]
        if (seed < 0).any():
            return f"seed must be in 0..{2**63 - 1}, got {seed.min()}"
        label = row.get("label")
        if label is not None and ((label < 0) | (label >= self._classes)).any():
            wrong = label[(label < 0) | (label >= self._classes)][0]
            return f"label must be in 0..{self._classes - 1}, got {wrong}"
        return None

    def _generate(self, rows: list[dict[str, Any]]) -> list[Any]:
        """One run of the graph over all rows; images per request."""
        if not rows:
            return []
        feed = {name: np.concatenate([row[name] for row in rows]) for name in self._inputs}
        (images,) = self._session.run(["image"], feed)
        ends = np.cumsum([len(row["seed"]) for row in rows])
        return np.split(images, ends[:-1])

    def _answer(self, images: Any) -> Any:
        digest = np.full((len(images), 1), self._digest, dtype=np.object_)
        tensors = [
            pb_utils.Tensor("image", np.ascontiguousarray(images)),
            pb_utils.Tensor("model_digest", digest),
        ]
        return pb_utils.InferenceResponse(output_tensors=tensors)

    def _refusal(self, problem: str) -> Any:
        error = pb_utils.TritonError(problem, pb_utils.TritonError.INVALID_ARG)
        return pb_utils.InferenceResponse(output_tensors=[], error=error)
