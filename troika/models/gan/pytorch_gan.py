"""GANs in PyTorch behind the model contract."""

import copy
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from troika.datasets.contract import Dataset
from troika.errors import ParameterError
from troika.models.contract import Labels, Latents, Machine, ModelSpec, Schedule
from troika.models.gan.backend import Backend
from troika.models.gan.layers import Weights
from troika.models.gan.model import GAN, Choice
from troika.models.gan.networks import plan_generator
from troika.models.gan.pytorch_backend import PyTorchBackend
from troika.models.gan.pytorch_data import image_bytes, stays
from troika.models.gan.pytorch_networks import Generator, put_weights
from troika.models.gan.pytorch_team import join_team
from troika.models.gan.settings import GANSettings
from troika.torch_onnx import to_onnx
from troika.torch_threads import few_threads


class PyTorchGAN(GAN):
    """See GAN. Samples on CUDA where there is a GPU."""

    framework: ClassVar[str] = "pytorch"
    trains_in_processes: ClassVar[bool] = True

    def __init__(self, spec: ModelSpec, settings: GANSettings, weights: Weights) -> None:
        super().__init__(spec, settings, weights)
        self._device = choose_device("auto")
        with torch.random.fork_rng([]):  # PyTorch draws weights that are replaced at once
            generator = Generator(plan_generator(settings, spec), spec.num_classes, settings.label_scale)
        put_weights(generator, weights)
        self._generator = generator.to(self._device).eval()

    @classmethod
    def processes_here(cls, machine: Machine) -> int:
        """One for each GPU."""
        return max(1, torch.cuda.device_count()) if choose_device(machine.device).type == "cuda" else 1

    @classmethod
    def choose(cls, dataset: Dataset, schedule: Schedule, machine: Machine) -> Choice:
        """See GAN."""
        device = choose_device(machine.device)
        precision = str(choose_precision(machine.precision, device)).removeprefix("torch.")
        kept = image_bytes(dataset.train)
        if not stays(dataset.train, device):
            batches = 1 if device.type == "cuda" else 2  # one in use, one read ahead, in the host's memory
            kept = kept * batches * schedule.batch_size // len(dataset.train)
        return Choice(device.type, precision, records_passes(machine.compile, device), kept)

    @classmethod
    @contextmanager
    def open_backend(
        cls, dataset: Dataset, spec: ModelSpec, settings: GANSettings, schedule: Schedule, machine: Machine
    ) -> Iterator[Backend]:
        """See GAN."""
        device = choose_device(machine.device)
        precision = choose_precision(machine.precision, device)
        # The caller's random state and threads are as before afterwards; cuDNN is held to repeatable kernels.
        with (
            _current(device),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
            few_threads(),
            join_team(device) as team,
        ):
            record = records_passes(machine.compile, device)
            backend = PyTorchBackend(dataset, spec, settings, schedule, device, precision, team, record=record)
            try:
                yield backend
            finally:
                backend.feed.close()

    @torch.inference_mode()
    def generate(self, latents: Latents, labels: Labels | None) -> NDArray[np.float32]:
        """See GAN."""
        classes = None if labels is None else torch.tensor(labels, device=self._device)
        images = self._generator(torch.tensor(latents, device=self._device), classes)
        made: NDArray[np.float32] = images.permute(0, 2, 3, 1).cpu().numpy()
        return made

    def export_core(self, path: Path) -> None:
        """See the contract."""
        core = _Core(copy.deepcopy(self._generator).cpu()).eval()
        # Two examples: a batch of one would be taken for a constant.
        inputs: tuple[Tensor, ...] = (torch.zeros(2, self.spec.latent_size),)
        names = ["latent"]
        if self.spec.conditional:
            inputs += (torch.zeros(2, dtype=torch.int64),)
            names.append("label")
        path.write_bytes(to_onnx(core, inputs, names, ["image_float"]))


class _Core(nn.Module):
    """The generator with its image axes as the contract wants them."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        images: Tensor = self.generator(latent, label)
        return images.permute(0, 2, 3, 1)


def choose_device(wanted: str) -> torch.device:
    """`auto`: CUDA where there is a GPU, else the CPU. One of several processes takes the GPU of its number.

    Raises:
        ParameterError: `cuda`, and there is none.
    """
    found = torch.cuda.is_available()
    if wanted == "cuda" and not found:
        raise ParameterError("device: cuda is asked for, but PyTorch finds no GPU here; say auto or cpu")
    if wanted == "cpu" or not found:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _current(device: torch.device) -> AbstractContextManager[None]:
    """Inside the block CUDA's new streams, events and random numbers are that GPU's, not those of the first."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 on a GPU that computes in it, else float32."""
    if wanted == "auto":
        wanted = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32


def records_passes(wanted: str, device: torch.device) -> bool:
    """Whether passes become CUDA graphs: on a GPU, but with `off`.

    Raises:
        ParameterError: `on`, and there is no GPU to record them for.
    """
    if wanted == "on" and device.type != "cuda":
        raise ParameterError(
            "compile: on is for tensorflow, or for pytorch on a GPU; PyTorch's step on a CPU is slower compiled, "
            "say auto or off"
        )
    return device.type == "cuda" and wanted != "off"
