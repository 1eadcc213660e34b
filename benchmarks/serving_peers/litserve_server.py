"""LitServe with its own batching and two workers."""

import sys
from typing import Annotated

import litserve
import numpy as np
from fastapi import Body, Response
from generator import Generator

model, port = sys.argv[1], int(sys.argv[2])


class Images(litserve.LitAPI):
    """Rows in, bytes out."""

    def setup(self, device: str) -> None:
        """Once for each worker."""
        self.generator = Generator(model)

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> np.ndarray:
        """Bytes to rows."""
        return np.frombuffer(request, dtype=np.int64).reshape(-1, 2)

    def batch(self, inputs: list) -> tuple:
        """Put requests together."""
        return np.concatenate(inputs), [len(rows) for rows in inputs]

    def predict(self, batch: tuple) -> tuple:
        """One run."""
        rows, counts = batch
        return self.generator(rows), counts

    def unbatch(self, output: tuple) -> list:
        """Take them apart again."""
        images, counts = output
        return np.split(images, np.cumsum(counts)[:-1])

    def encode_response(self, output: np.ndarray) -> Response:
        """Images to bytes."""
        return Response(output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    api = Images(max_batch_size=16, batch_timeout=0.0005, api_path="/generate")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=2)
    server.run(host="127.0.0.1", port=port, log_level="error", generate_client_file=False, num_api_servers=1)
