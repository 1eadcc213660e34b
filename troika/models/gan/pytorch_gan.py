"""GANs in PyTorch behind the model contract: what of a preset lies on disk, and uint8 NHWC at the edges."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from troika.datasets.contract import Dataset
from troika.errors import CheckpointError, ParameterError
from troika.folders import sha256_file, write_atomic
from troika.models.contract import (
    GenerativeModel,
    Images,
    Labels,
    Latents,
    ModelSpec,
    Progress,
    Schedule,
    quantise,
)
from troika.models.gan.networks import Generator, build_generator
from troika.models.gan.settings import GANSettings
from troika.models.gan.training import train_generator
from troika.params import Params
from troika.torch_onnx import to_onnx

_WEIGHTS = "generator.safetensors"
_DESCRIPTION = "model.json"
_SAMPLE_BATCH = 1024


class PyTorchGAN(GenerativeModel):
    """A generator and the settings that it was made with. The discriminator ends with the training."""

    settings_type: ClassVar[type[Params]] = GANSettings

    def __init__(self, spec: ModelSpec, settings: GANSettings, generator: Generator) -> None:
        super().__init__(spec)
        self.settings = settings
        self._device = choose_device()
        self._generator = generator.to(self._device).eval()

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        preset: str,
        settings: Params,
        schedule: Schedule,
        state: Path,
        report: Callable[[Progress], None],
    ) -> Self:
        """See the contract; runs on CUDA where there is a GPU.

        Raises:
            ParameterError: the network cannot make images of this shape, or a setting is out of range.
            TroikaError: the training diverged, or its state cannot be saved.
        """
        if not isinstance(settings, GANSettings):
            raise ParameterError(f"preset {preset}: expected GANSettings, got {type(settings).__name__}")
        spec = ModelSpec(
            family="gan",
            framework="pytorch",
            preset=preset,
            image_shape=dataset.info.shape,
            latent_size=settings.latent_size,
            num_classes=len(dataset.info.classes),
            conditional=settings.conditional,
        )
        generator = train_generator(
            dataset,
            spec=spec,
            settings=settings,
            schedule=schedule,
            state=state,
            report=report,
            device=choose_device(),
        )
        return cls(spec, settings, generator)

    @torch.inference_mode()
    def sample(self, latents: Latents, labels: Labels | None) -> Images:
        """See the contract.

        Raises:
            ParameterError: labels are missing, not wanted, out of range or not as many as latents.
        """
        self._check_inputs(latents, labels)
        parts = [np.empty((0, *self.spec.image_shape), dtype=np.uint8)]
        for start in range(0, len(latents), _SAMPLE_BATCH):
            chosen = slice(start, start + _SAMPLE_BATCH)
            classes = None if labels is None else torch.tensor(labels[chosen], device=self._device)
            images = self._generator(torch.tensor(latents[chosen], device=self._device), classes)
            parts.append(quantise(images.permute(0, 2, 3, 1).cpu().numpy()))
        return np.concatenate(parts)

    def save(self, folder: Path) -> None:
        """Write `generator.safetensors` and `model.json`, which holds its digest."""
        weights = {key: value.cpu().contiguous() for key, value in self._generator.state_dict().items()}
        (folder / _WEIGHTS).write_bytes(save(weights))
        description = {
            "spec": self.spec.model_dump(mode="json"),
            "settings": self.settings.model_dump(mode="json"),
            "weights": sha256_file(folder / _WEIGHTS),
        }
        write_atomic(folder / _DESCRIPTION, json.dumps(description, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            CheckpointError: files are missing, damaged or of another model.
        """
        try:
            description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
            spec = ModelSpec.model_validate(description["spec"])
            settings = GANSettings.model_validate(description["settings"])
            if (spec.family, spec.framework) != ("gan", "pytorch"):
                raise CheckpointError(f"{folder} holds a {spec.framework} {spec.family}; expected a pytorch gan")
            if sha256_file(folder / _WEIGHTS) != description["weights"]:
                raise CheckpointError(f"{folder / _WEIGHTS} has been changed or damaged; train again")
            generator = build_generator(settings, spec)
            generator.load_state_dict(load_file(folder / _WEIGHTS))
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{folder} is not a checkpoint: {error.filename} is missing; run train"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, ValidationError, ParameterError) as error:
            raise CheckpointError(f"{folder / _DESCRIPTION} is damaged: {error}; train again") from None
        except (SafetensorError, RuntimeError) as error:
            raise CheckpointError(f"{folder / _WEIGHTS} is not of this model: {error}; train again") from None
        return cls(spec, settings, generator)

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

    def _check_inputs(self, latents: Latents, labels: Labels | None) -> None:
        if latents.ndim != 2 or latents.shape[1] != self.spec.latent_size:
            raise ParameterError(f"latent: shape {latents.shape}; expected (N, {self.spec.latent_size})")
        if not self.spec.conditional:
            if labels is not None:
                raise ParameterError(f"label: preset {self.spec.preset} is unconditional; leave it out")
            return
        if labels is None or labels.shape != latents.shape[:1]:
            raise ParameterError(f"label: preset {self.spec.preset} needs one for each of {len(latents)} latents")
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.spec.num_classes:
            raise ParameterError(f"label: out of range; give whole numbers in 0..{self.spec.num_classes - 1}")


class _Core(nn.Module):
    """The generator with its image axes as the contract wants them."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        images: Tensor = self.generator(latent, label)
        return images.permute(0, 2, 3, 1)


def choose_device() -> torch.device:
    """CUDA where there is a GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
