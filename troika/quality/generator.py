"""The exported generator as the judge sees it: the ONNX graph that is served, and nothing else."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from troika.datasets.contract import Images, Labels
from troika.onnx_session import open_session, run_generator

_BATCH = 512


class OnnxGenerator:
    """The served graph of one bundle."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _session(self) -> Any:
        return open_session(self._path)

    @property
    def conditional(self) -> bool:
        """Whether a label is an input."""
        return any(entry.name == "label" for entry in self._session.get_inputs())

    @property
    def latent_size(self) -> int:
        """Values in a latent."""
        return int(next(entry.shape[1] for entry in self._session.get_inputs() if entry.name == "latent"))

    def draw(self, seeds: NDArray[np.int64], labels: Labels) -> Images:
        """Images (N, H, W, C) for seeds (N,) and labels (N,); an unconditional generator ignores the labels."""
        images: list[Images] = []
        for start in range(0, len(seeds), _BATCH):
            part = slice(start, start + _BATCH)
            images.append(run_generator(self._session, seeds[part], labels[part]))
        return np.concatenate(images)

    def draw_from(self, latents: NDArray[np.float32], labels: Labels) -> Images:
        """Images (N, H, W, C) of these latents (N, latent size), which no seed need give, and labels (N,)."""
        seeds = np.full(len(latents), -1, np.int64)
        images: list[Images] = []
        for start in range(0, len(latents), _BATCH):
            part = slice(start, start + _BATCH)
            images.append(run_generator(self._session, seeds[part], labels[part], latents[part]))
        return np.concatenate(images)
