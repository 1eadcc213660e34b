"""KServe's Python server with the v2 protocol, binary inputs and outputs."""

import sys

import kserve
import numpy as np
from generator import Generator
from kserve import InferOutput, InferRequest, InferResponse

model, port = sys.argv[1], sys.argv[2]


class Images(kserve.Model):
    """seed and label in, image out."""

    def __init__(self) -> None:
        super().__init__("generator")
        self.generator = Generator(model)
        self.ready = True

    def predict(self, payload: InferRequest, headers: dict | None = None, response_headers: dict | None = None):
        """One run."""
        columns = {entry.name: entry.as_numpy() for entry in payload.inputs}
        images = self.generator(np.concatenate([columns["seed"], columns["label"]], axis=1))
        output = InferOutput("image", list(images.shape), "UINT8")
        output.set_data_from_numpy(images, binary_data=True)
        return InferResponse(payload.id or "none", self.name, [output], use_binary_outputs=True)


if __name__ == "__main__":
    sys.argv = [sys.argv[0], "--http_port", port, "--enable_grpc", "false", "--workers", "1"]
    kserve.ModelServer(http_port=int(port), enable_grpc=False, workers=1, access_log_format=None).start([Images()])
