"""What every generative model promises, whatever its family or framework.

Outside a model images are uint8 NHWC, labels int64, latents float32, all numpy; inside, each backend uses its
own layout. A family or a backend is a new folder or file plus one line in registry.py. Does not draw latents
(latents.py) and knows nothing of ONNX graphs (export.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

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
    """Of all processes together."""
    seed: int
    checkpoint_seconds: float
    """How often the training state is saved for resuming."""
    ticks: int
    """How often, evenly over the steps, samples are drawn and looked at."""


@dataclass(frozen=True)
class Machine:
    """What to train on; none of it changes what is trained."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: CUDA where there is a GPU, else the CPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of passes through the networks; weights are float32. `auto`: bfloat16 on a GPU that has it, else float32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether the framework compiles the step first (TensorFlow: XLA), or records it (PyTorch on a GPU: CUDA
    graphs). `auto`: where that has been measured to pay."""


@dataclass(frozen=True)
class Progress:
    """One line of the training history."""

    step: int
    steps: int
    images_per_second: float
    figures: dict[str, float]
    """Means since the line before: losses, scores, penalties, gradient norms; and the schedules' values."""
    samples: Images | None = None
    """At a tick: the moving average's images for latents and labels that stay the same."""


@dataclass(frozen=True)
class Needs:
    """What a training would take; nothing has been trained for it."""

    device: str
    precision: str
    compiled: bool
    """Whether the framework compiles or records the step."""
    processes: int
    parameters: dict[str, int]
    """Network -> trained numbers."""
    memory: dict[str, int]
    """What for -> bytes on the device of each process, as an estimate."""


class GenerativeModel(ABC):
    """A trained generator. Made by `fit` or `load`, never empty."""

    settings_type: ClassVar[type[Params]]
    """The preset's typed settings."""
    trains_in_processes: ClassVar[bool] = False
    """Whether several processes can train one model together."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    @classmethod
    def processes_here(cls, machine: Machine) -> int:  # noqa: ARG003 - for those that can use several
        """How many processes training needs to use all of this machine; each then calls `fit` by torchrun."""
        return 1

    @classmethod
    @abstractmethod
    def needs(
        cls,
        dataset: Dataset,
        preset: str,
        settings: Params,
        schedule: Schedule,
        machine: Machine,
        processes: int,
    ) -> Needs:
        """What `fit` would take with these arguments in so many processes; nothing is trained or written.

        Raises:
            ParameterError: as `fit` would.
        """

    @classmethod
    @abstractmethod
    def fit(
        cls,
        dataset: Dataset,
        preset: str,
        settings: Params,
        schedule: Schedule,
        machine: Machine,
        state: Path,
        report: Callable[[Progress], None],
    ) -> Self:
        """Train on `dataset.train`.

        Args:
            dataset: images of any shape that the preset's network can make.
            preset: the name that `settings` go by.
            settings: an instance of `settings_type`.
            schedule: number of steps, batch size, seed.
            machine: device and precision.
            state: a folder that outlives this process. Training state is saved there, atomically, every
                `schedule.checkpoint_seconds`; if it holds the state of this very training, that is resumed
                with the result of an uninterrupted run. The caller removes it after success.
            report: called every few steps, at every tick and after the last step; of several processes, only
                in the first.

        Raises:
            ParameterError: the network cannot make images of this shape, a setting is out of range, or this
                machine lacks what `machine` asks for.
            DivergedError: it cannot become good any more; the message names the cause.
            TrainingPausedError: this process was asked to end (SIGTERM). The state is saved; start it again.
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
