"""What GANs of every framework share behind the model contract: fitting, files, and checks of what comes in.

A framework adds one step of training (`open_backend`), the network itself (`generate`) and its ONNX form.
"""

import json
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from troika.datasets.contract import Dataset
from troika.errors import CheckpointError, ParameterError
from troika.folders import sha256_file, write_atomic
from troika.models.contract import (
    GenerativeModel,
    Images,
    Labels,
    Latents,
    Machine,
    ModelSpec,
    Needs,
    Progress,
    Schedule,
    quantise,
)
from troika.models.gan.backend import Backend
from troika.models.gan.layers import Weights, draw_weights
from troika.models.gan.loop import check_schedule, run_training
from troika.models.gan.needs import memory_of, parameters_of
from troika.models.gan.networks import plan_generator
from troika.models.gan.settings import GANSettings
from troika.params import Params

_WEIGHTS = "generator.safetensors"
_DESCRIPTION = "model.json"
SAMPLE_BATCH = 1024


@dataclass(frozen=True)
class Choice:
    """What a framework makes of a Machine here."""

    device: str
    precision: str
    compiled: bool
    image_bytes: int
    """Of the training split, where the device keeps it; else of a batch on its way there."""


class GAN(GenerativeModel):
    """A generator and the settings that it was made with. The discriminator ends with the training."""

    settings_type: ClassVar[type[Params]] = GANSettings
    framework: ClassVar[str]

    def __init__(self, spec: ModelSpec, settings: GANSettings, weights: Weights) -> None:
        super().__init__(spec)
        self.settings = settings
        self.weights = weights
        """By name, as layers.py describes."""

    @classmethod
    @abstractmethod
    def open_backend(
        cls, dataset: Dataset, spec: ModelSpec, settings: GANSettings, schedule: Schedule, machine: Machine
    ) -> AbstractContextManager[Backend]:
        """Networks with first weights (drawn by `first_weights`) and optimisers on the device, for `run_training`.

        Raises:
            ParameterError: the network cannot make images of this shape, or this machine lacks what is asked for.
        """

    @abstractmethod
    def generate(self, latents: Latents, labels: Labels | None) -> NDArray[np.float32]:
        """One pass: images float32 (N, H, W, C) in -1..1."""

    @classmethod
    @abstractmethod
    def choose(cls, dataset: Dataset, schedule: Schedule, machine: Machine) -> Choice:
        """What `open_backend` would train on.

        Raises:
            ParameterError: this machine lacks what is asked for.
        """

    @classmethod
    def needs(
        cls,
        dataset: Dataset,
        preset: str,
        settings: Params,
        schedule: Schedule,
        machine: Machine,
        processes: int,
    ) -> Needs:
        """See the contract."""
        spec = cls.describe(dataset, preset, settings)
        assert isinstance(settings, GANSettings)  # noqa: S101 - `describe` has refused all others
        check_schedule(schedule, processes)
        choice = cls.choose(dataset, schedule, machine)
        pass_bytes = 2 if choice.precision == "bfloat16" else 4
        recorded = choice.compiled and cls.framework == "pytorch"
        memory = memory_of(settings, spec, schedule, processes=processes, pass_bytes=pass_bytes, recorded=recorded)
        memory["images"] = choice.image_bytes
        parameters = parameters_of(settings, spec)
        return Needs(choice.device, choice.precision, choice.compiled, processes, parameters, memory)

    @classmethod
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
        """See the contract."""
        spec = cls.describe(dataset, preset, settings)
        assert isinstance(settings, GANSettings)  # noqa: S101 - `describe` has refused all others
        with cls.open_backend(dataset, spec, settings, schedule, machine) as backend:
            weights = run_training(backend, dataset, spec, settings, schedule, state, report)
        return cls(spec, settings, weights)

    @classmethod
    def describe(cls, dataset: Dataset, preset: str, settings: Params) -> ModelSpec:
        """The spec of a model of `settings` for images like those of `dataset`.

        Raises:
            ParameterError: the settings are of another family.
        """
        if not isinstance(settings, GANSettings):
            raise ParameterError(f"preset {preset}: expected GANSettings, got {type(settings).__name__}")
        return ModelSpec(
            family="gan",
            framework=cls.framework,
            preset=preset,
            image_shape=dataset.info.shape,
            latent_size=settings.latent_size,
            num_classes=len(dataset.info.classes),
            conditional=settings.conditional,
        )

    def sample(self, latents: Latents, labels: Labels | None) -> Images:
        """See the contract.

        Raises:
            ParameterError: labels are missing, not wanted, out of range or not as many as latents.
        """
        self._check_inputs(latents, labels)
        parts = [np.empty((0, *self.spec.image_shape), dtype=np.uint8)]
        for start in range(0, len(latents), SAMPLE_BATCH):
            chosen = slice(start, start + SAMPLE_BATCH)
            parts.append(quantise(self.generate(latents[chosen], None if labels is None else labels[chosen])))
        return np.concatenate(parts)

    def save(self, folder: Path) -> None:
        """Write `generator.safetensors` and `model.json`, which holds its digest."""
        (folder / _WEIGHTS).write_bytes(save(self.weights))
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
            if (spec.family, spec.framework) != ("gan", cls.framework):
                raise CheckpointError(
                    f"{folder} holds a {spec.framework} {spec.family}; expected a {cls.framework} gan checkpoint"
                )
            if sha256_file(folder / _WEIGHTS) != description["weights"]:
                raise CheckpointError(f"{folder / _WEIGHTS} has been changed or damaged; train again")
            weights = load_file(folder / _WEIGHTS)
            expected = {
                name: value.shape for name, value in draw_weights(plan_generator(settings, spec), 0).items()
            }
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{folder} is not a checkpoint: {error.filename} is missing; run train"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, ValidationError, ParameterError) as error:
            raise CheckpointError(f"{folder / _DESCRIPTION} is damaged: {error}; train again") from None
        except SafetensorError as error:
            raise CheckpointError(f"{folder / _WEIGHTS} is no checkpoint: {error}; train again") from None
        if {name: value.shape for name, value in weights.items()} != expected:
            raise CheckpointError(f"{folder / _WEIGHTS} is not of this model's checkpoint; train again")
        return cls(spec, settings, weights)

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
