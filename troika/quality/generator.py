"""The exported generator as the judge sees it: the ONNX graph that is served, and nothing else."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from troika.datasets.contract import Images, Labels
from troika.onnx_session import open_session, run_generator
from troika.quality.rows import images_at_once, on_all_cores, parts_of


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
        return self._run(seeds, labels, np.zeros((len(seeds), self.latent_size), np.float32))

    def draw_from(self, latents: NDArray[np.float32], labels: Labels) -> Images:
        """Images (N, H, W, C) of these latents (N, latent size), which no seed need give, and labels (N,)."""
        return self._run(np.full(len(latents), -1, np.int64), labels, latents)

    def _run(self, seeds: NDArray[np.int64], labels: Labels, latents: NDArray[np.float32]) -> Images:
        session = self._session
        (image,) = (entry for entry in session.get_outputs() if entry.name == "image")
        return np.concatenate(
            on_all_cores(
                lambda part: run_generator(session, seeds[part], labels[part], latents[part]),
                parts_of(len(seeds), images_at_once(*image.shape[1:3])),
            )
        )
