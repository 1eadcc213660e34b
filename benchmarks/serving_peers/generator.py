"""The ONNX graph, for all peers."""

import numpy as np
import onnxruntime


class Generator:
    """Rows int64 (n, 2) of seed and label -> images uint8 (n, H, W, C)."""

    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (self._latent,) = (entry.shape[1] for entry in self._session.get_inputs() if entry.name == "latent")

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """One run."""
        latent = np.zeros((len(rows), self._latent), dtype=np.float32)
        feed = {"seed": rows[:, :1], "label": rows[:, 1:], "latent": latent}
        return self._session.run(["image"], feed)[0]
