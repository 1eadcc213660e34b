"""What every generative model promises, whatever its family or framework.

Outside a model images are uint8 NHWC, labels int64, latents float32, all numpy; inside, each backend uses its
own layout. A family or a backend is a new folder or file plus one line in registry.py. Does not draw latents
(latents.py) and knows nothing of ONNX graphs (export.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from troika.datasets.contract import Dataset
from troika.params import Params

Latents = NDArray[np.float32]
Labels = NDArray[np.int64]
Images = NDArray[np.uint8]


class ModelSpec(BaseModel):
    """Shape of a model's inputs and output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    framework: str
    preset: str
    image_shape: tuple[int, int, int]
    """Height, width, channels."""
    latent_size: int = Field(gt=0)
    num_classes: int = Field(gt=0)
    conditional: bool
    """Whether a label is an input. The classes are known either way."""


@dataclass(frozen=True)
class Schedule:
    """How long and how to train; the family's own settings come apart from it."""

    steps: int
    batch_size: int
    seed: int
    checkpoint_seconds: float
    """How often the training state is saved for resuming."""


@dataclass(frozen=True)
class Progress:
    """One line of the training history."""

    step: int
    steps: int
    images_per_second: float
    losses: dict[str, float]


class GenerativeModel(ABC):
    """A trained generator. Made by `fit` or `load`, never empty."""

    settings_type: ClassVar[type[Params]]
    """The preset's typed settings."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    @classmethod
    @abstractmethod
    def fit(
        cls,
        dataset: Dataset,
        preset: str,
        settings: Params,
        schedule: Schedule,
        state: Path,
        report: Callable[[Progress], None],
    ) -> Self:
        """Train on `dataset.train`.

        Args:
            dataset: images of any shape that the preset's network can make.
            preset: the name that `settings` go by.
            settings: an instance of `settings_type`.
            schedule: number of steps, batch size, seed.
            state: a folder that outlives this process. Training state is saved there, atomically, every
                `schedule.checkpoint_seconds`; if it holds the state of this very training, that is resumed
                with the result of an uninterrupted run. The caller removes it after success.
            report: called after every step or every few steps, always after the last.

        Raises:
            ParameterError: the network cannot make images of this shape, or a setting is out of range.
        """

    @abstractmethod
    def sample(self, latents: Latents, labels: Labels | None) -> Images:
        """Images (N, H, W, C) for latents (N, latent_size) and, when conditional, labels (N,)."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the weights and all that `load` needs into the existing, empty `folder`; no pickled code."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            CheckpointError: files are missing, damaged or of another model.
        """

    @abstractmethod
    def export_core(self, path: Path) -> None:
        """Write the bare network as ONNX, with a free batch size.

        Inputs: `latent` float32 (batch, latent_size) and, when conditional, `label` int64 (batch,).
        Output: `image_float` float32 (batch, H, W, C) in -1..1. export.py adds the rest.
        """


def quantise(image_float: NDArray[np.float32]) -> Images:
    """The one way from -1..1 to 0..255: scale, clip, round half to even. export.py does the same in ONNX."""
    scaled = (image_float + np.float32(1)) * np.float32(127.5)
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
