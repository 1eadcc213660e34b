"""The evaluator: a small classifier of real images, whose features and labels judge generated ones.

It is an artifact with a digest of its own: an ONNX graph, so judging needs no training framework
(evaluator_training.py does). Inception features say nothing about small grey digits; a network that has learned
these very classes does.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from troika.datasets.contract import Images
from troika.onnx_session import open_session
from troika.params import Params

_BATCH = 1024


class EvaluatorParams(Params):
    """How the evaluator is trained."""

    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    features: int = Field(gt=0)
    seed: int = Field(ge=0)


@dataclass(frozen=True)
class Evaluator:
    """An ONNX graph: `image` uint8 (batch, H, W, C) -> `features` (batch, D), `logits` (batch, K)."""

    onnx: bytes

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of the graph."""
        return f"sha256:{hashlib.sha256(self.onnx).hexdigest()}"

    @cached_property
    def _session(self) -> Any:
        return open_session(self.onnx)

    def look_at(self, images: Images) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Features (N, D) and the most likely class (N,) of images uint8 (N, H, W, C)."""
        features, classes = [], []
        for start in range(0, len(images), _BATCH):
            batch = np.ascontiguousarray(images[start : start + _BATCH])
            found, logits = self._session.run(["features", "logits"], {"image": batch})
            features.append(found)
            classes.append(logits.argmax(axis=1))
        return np.concatenate(features), np.concatenate(classes).astype(np.int64)
