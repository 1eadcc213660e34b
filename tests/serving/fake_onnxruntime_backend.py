"""A fake of Triton's onnxruntime backend, which the PyPI wheel does not have: a backend written in Python.

Triton loads it under that name, so that the configurations for production are read and obeyed by the real Triton.
"""

import json
from pathlib import Path
from typing import Any

import onnxruntime
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found,unused-ignore]


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        assert config["backend"] == "onnxruntime"
        self.inputs = [entry["name"] for entry in config["input"]]
        folder = Path(args["model_repository"]) / args["model_version"]
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"))

    def execute(self, requests: list[Any]) -> list[Any]:
        answers = []
        for request in requests:
            feed = {n: pb_utils.get_input_tensor_by_name(request, n).as_numpy() for n in self.inputs}
            (images,) = self.session.run(["image"], feed)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("image", images)]))
        return answers
