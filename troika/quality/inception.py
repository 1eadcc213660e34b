"""Features of a network that was trained elsewhere, such as Inception: an ONNX file that is given, never fetched.

Scaling and resizing belong to the graph, so that its digest stands for all that the features depend on. Two ways
of resizing alone give Fréchet distances that cannot be compared (Parmar et al. 2022, arXiv 2104.11222).
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from troika.datasets.contract import Images
from troika.errors import EvaluatorError
from troika.onnx_session import onnxruntime_errors, open_session

_BATCH = 64
SMALLEST = 32
"""Pixels. Inception enlarges to 299: of less than this, nearly all that it sees was made by the enlarging."""


class InceptionFeatures:
    """A graph: uint8 (batch, 3, H, W) or (batch, H, W, 3) -> float (batch, D), its first such output."""

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        """Open the file for images of `shape` (H, W, C).

        Raises:
            EvaluatorError: there is no such file, its graph takes or gives something else, or images of this shape
                are nothing that features of photographs say anything about.
        """
        height, width, channels = shape
        instead = "use the evaluator's own features"
        if channels != 3:
            plural = "" if channels == 1 else "s"
            raise EvaluatorError(
                f"{path}: features of colour photographs say nothing about images of {channels} channel{plural}, "
                f"and a figure made from them would look like one that does; {instead}"
            )
        if min(height, width) < SMALLEST:
            raise EvaluatorError(
                f"{path}: images of {height} x {width} pixels would be enlarged until little but the enlarging is "
                f"seen; {SMALLEST} x {SMALLEST} are needed, or {instead}"
            )
        try:
            content = path.read_bytes()
        except OSError as error:
            raise EvaluatorError(
                f"{path} cannot be read: {error.strerror}; give the ONNX file of a feature network (none is "
                f"downloaded), or {instead}"
            ) from None
        try:
            self._session: Any = open_session(content)
        except onnxruntime_errors() as error:
            raise EvaluatorError(f"{path} cannot be run as an ONNX graph: {error}") from None
        self.digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        """Of the file."""
        self._shape = shape
        self._input, self._channels_first = _input_of(self._session, path, shape)
        self._output = _output_of(self._session, path)

    def look_at(self, images: Images) -> NDArray[np.float32]:
        """Features (N, D) of images uint8 (N, H, W, C).

        Raises:
            ValueError: images of another shape or type.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self._shape:
            wanted = ", ".join(map(str, self._shape))
            raise ValueError(f"images: uint8 (N, {wanted}) is needed, not {images.dtype} {images.shape}")
        found = []
        for start in range(0, len(images), _BATCH):
            batch = np.asarray(images[start : start + _BATCH])
            fed = np.ascontiguousarray(batch.transpose(0, 3, 1, 2) if self._channels_first else batch)
            found.append(self._session.run([self._output], {self._input: fed})[0])
        features: NDArray[np.float32] = np.concatenate(found).astype(np.float32)
        return features


def _input_of(session: Any, path: Path, shape: tuple[int, int, int]) -> tuple[str, bool]:
    """Name of the graph's input, and whether its channels come first."""
    height, width, channels = shape
    inputs = session.get_inputs()
    if len(inputs) == 1 and inputs[0].type == "tensor(uint8)" and len(inputs[0].shape) == 4:
        for wanted, first in (((channels, height, width), True), ((height, width, channels), False)):
            # A size that is free has a name or None.
            if all(
                not isinstance(size, int) or size == n for size, n in zip(inputs[0].shape[1:], wanted, strict=True)
            ):
                return inputs[0].name, first
    described = ", ".join(f"{entry.name}: {entry.type} {entry.shape}" for entry in inputs)
    raise EvaluatorError(
        f"{path}: a graph with one input is needed, uint8 (batch, {channels}, {height}, {width}) or channels "
        f"last, which scales and resizes by itself; this one takes {described}"
    )


def _output_of(session: Any, path: Path) -> str:
    for entry in session.get_outputs():
        if len(entry.shape) == 2 and "float" in entry.type:
            name: str = entry.name
            return name
    described = ", ".join(f"{entry.name}: {entry.type} {entry.shape}" for entry in session.get_outputs())
    raise EvaluatorError(f"{path}: an output of features (batch, D) is needed; this graph gives {described}")
