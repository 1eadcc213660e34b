"""One step of GAN training in PyTorch: discriminator, generator, moving average.

What makes it fast: Adam's fused kernel, channels-last from 28 pixels on, no gradient that nobody needs, dropout's
bits from numpy on a CPU; on a GPU passes recorded as CUDA graphs, and nothing read back from it between reports.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from troika.datasets.contract import Dataset
from troika.models.contract import Images, Labels, Latents, ModelSpec, Schedule, quantise
from troika.models.gan.backend import Alone
from troika.models.gan.batches import Indices, derive_seed, dropout_bits, shares_of_step
from troika.models.gan.figures import ABSENT, FIGURES, REPORT_EVERY, Rows, notes_gradients
from troika.models.gan.layers import Weights, draw_weights
from troika.models.gan.networks import normalises_batches, plan_discriminator, plan_generator
from troika.models.gan.pytorch_data import Feed
from troika.models.gan.pytorch_graphs import Launch, Launcher
from troika.models.gan.pytorch_inputs import Field, Inputs
from troika.models.gan.pytorch_losses import LOSSES
from troika.models.gan.pytorch_networks import Discriminator, Generator, get_weights, named_tensors, put_weights
from troika.models.gan.pytorch_optimizer import Adam
from troika.models.gan.pytorch_passes import Passes
from troika.models.gan.pytorch_team import Together
from troika.models.gan.saved_state import Tensors
from troika.models.gan.schedules import Hyper
from troika.models.gan.settings import GANSettings
from troika.models.gan.updates import passes_of

_SAMPLE_BATCH = 512
_CHANNELS_LAST_FROM = 28
"""Pixels; below, a CPU is a little faster without."""
_NONE = np.empty(0, np.float32)


class PyTorchBackend:
    """See Backend. `precision` is that of passes; weights and optimisers are float32. `record`: CUDA graphs."""

    def __init__(
        self,
        dataset: Dataset,
        spec: ModelSpec,
        settings: GANSettings,
        schedule: Schedule,
        device: torch.device,
        precision: torch.dtype,
        team: Alone | Together,
        *,
        record: bool = False,
    ) -> None:
        self.team = team
        self._spec, self._settings, self._schedule = spec, settings, schedule
        self._device = device

        # Networks, with weights that depend on the seed alone; what is kept is a moving average.
        generator, discriminator = plan_generator(settings, spec), plan_discriminator(settings, spec)
        large = spec.image_shape[0] >= _CHANNELS_LAST_FROM
        layout = torch.channels_last if device.type == "cuda" or large else torch.contiguous_format
        self._generator = Generator(generator, spec.num_classes, settings.label_scale)
        self._average = Generator(generator, spec.num_classes, settings.label_scale).eval()
        self._discriminator = Discriminator(discriminator, spec.image_shape)
        for network, layers, name in [
            (self._generator, generator, "generator"),
            (self._average, generator, "generator"),
            (self._discriminator, discriminator, "discriminator"),
        ]:
            network.to(device, memory_format=layout)  # type: ignore[call-overload]
            put_weights(network, draw_weights(layers, derive_seed(schedule.seed, name, 0)))
        self._generator_adam = Adam(self._generator, settings.l2)
        self._discriminator_adam = Adam(self._discriminator, settings.l2)
        self._averaged = _pairs(self._average, self._generator)
        self._average_is_behind = False

        # The way from a batch to gradients.
        size = schedule.batch_size // team.size
        self._share = slice(team.rank * size, (team.rank + 1) * size)
        self.feed = Feed(dataset.train, device, layout)
        mixed = (size if settings.penalty == "wgan_gp" else 0,)
        fields: dict[str, Field] = {
            **self.feed.fields(size),
            "latents": ((size, spec.latent_size), np.float32),
            "penalty_weight": ((), np.float64),
            "shares": (mixed, np.float32),
        }
        self._inputs = Inputs(device, fields)
        self._passes = Passes(
            settings,
            self.feed,
            self._inputs,
            (self._generator_adam, self._discriminator_adam),
            (self._generator, self._discriminator),
            precision,
            apart=normalises_batches(discriminator) or settings.penalty in ("r1", "r2"),
        )
        self._launcher = Launcher(self._passes, record=record)

        self._figures = torch.zeros(REPORT_EVERY, len(FIGURES), device=device)
        self._absent = dict.fromkeys(FIGURES, torch.tensor(ABSENT, device=device))

    # -- one step --------------------------------------------------------------------------------------------

    def step(self, number: int, indices: Indices, latents: Latents, hyper: Hyper) -> None:
        """See Backend."""
        # This step's data and numbers, and what its dropout drops.
        self._inputs.put(
            **self.feed.arrays(indices),
            latents=latents,
            penalty_weight=np.array(hyper.penalty_weight),
            shares=self._shares(number),
        )
        discriminate, generate = self._launcher.of(penalised=hyper.penalty_weight > 0)
        self._choose_dropped(number)

        # Each network learns from the other: first the discriminator, then the generator.
        noted = self._absent.copy()
        noted |= self._improve("discriminator", discriminate, self._discriminator_adam, number, hyper)
        noted |= self._improve("generator", generate, self._generator_adam, number, hyper)

        # What is kept is not the generator but a moving average of it.
        self._average_is_behind = hyper.average_decay == 0
        if not self._average_is_behind:
            self._follow(hyper.average_decay)
        torch.stack([noted[name] for name in FIGURES], out=self._figures[number % REPORT_EVERY])

    def _improve(self, name: str, launch: Launch, optimizer: Adam, number: int, hyper: Hyper) -> dict[str, Tensor]:
        """A pass, and one step of the optimiser along its gradients; what was noted down."""
        noted, gradients = launch()
        if isinstance(self.team, Together):
            self.team.average_gradients(gradients)
        optimizer.apply(gradients, hyper)
        if notes_gradients(number):
            return noted | {f"{name}_gradient_norm": torch.nn.utils.get_total_norm(gradients)}
        return noted

    def _shares(self, number: int) -> NDArray[np.float32]:
        """Of the whole batch, those of this process, where the penalty looks at mixtures."""
        if self._settings.penalty != "wgan_gp":
            return _NONE
        return shares_of_step(self._schedule.seed, number, self._schedule.batch_size)[self._share]

    def _choose_dropped(self, number: int) -> None:
        """By this step's random numbers; a GPU draws its own.

        For the discriminator's step at real and generated images, then, if they are judged again, for the
        generator's at generated and, if its loss compares pairs, real ones.
        """
        widths = self._discriminator.dropout_widths
        if widths and self._device.type == "cuda":
            torch.cuda.manual_seed(derive_seed(self._schedule.seed, f"process {self.team.rank} step", number))
        elif widths:
            passes = passes_of(self._settings, compares_pairs=LOSSES[self._settings.loss].compares_pairs)
            bits = dropout_bits(self._schedule.seed, number, passes, self._schedule.batch_size, sum(widths))
            self._passes.bits = list(bits[:, self._share])

    def _catch_up(self) -> None:
        """Where nothing is averaged, the generator is copied when somebody looks, not at every step."""
        if self._average_is_behind:
            self._follow(0.0)
            self._average_is_behind = False

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        old, new, statistics, current = self._averaged
        torch._foreach_lerp_(old, new, 1 - decay)
        if statistics:
            torch._foreach_copy_(statistics, current)  # running statistics are averages already

    # -- what the loop asks for --------------------------------------------------------------------------------

    def announce(self, indices: Indices) -> None:
        """See Backend."""
        self.feed.announce(indices)

    def figures(self) -> Rows:
        """See Backend."""
        rows: Rows = self._figures.cpu().numpy().copy()
        return rows

    @torch.inference_mode()
    def sample(self, latents: Latents, labels: Labels | None) -> Images:
        """See Backend."""
        self._catch_up()
        parts = []
        for start in range(0, len(latents), _SAMPLE_BATCH):
            chosen = slice(start, start + _SAMPLE_BATCH)
            classes = None if labels is None else torch.tensor(labels[chosen], device=self._device)
            images = self._average(torch.tensor(latents[chosen], device=self._device), classes)
            parts.append(quantise(images.float().permute(0, 2, 3, 1).cpu().numpy()))
        return np.concatenate(parts)

    def average(self) -> Weights:
        """See Backend."""
        self._catch_up()
        return get_weights(self._average)

    def state(self) -> Tensors:
        """See Backend."""
        self._catch_up()
        return {name: value.detach().cpu().contiguous().numpy().copy() for name, value in self._tensors().items()}

    @torch.no_grad()
    def restore(self, tensors: Tensors, step: int) -> None:
        """See Backend."""
        for name, value in self._tensors().items():
            value.copy_(torch.from_numpy(tensors[name].copy()))
        self._average_is_behind = False
        self._generator_adam.count_from(step)
        self._discriminator_adam.count_from(step)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"figures": self._figures}
        networks = {
            "generator": self._generator, "discriminator": self._discriminator, "average": self._average
        }  # fmt: skip
        for prefix, network in networks.items():
            tensors |= {f"{prefix}.{name}": value for name, value in named_tensors(network).items()}
        for prefix, optimizer in [
            ("generator_adam", self._generator_adam), ("discriminator_adam", self._discriminator_adam)
        ]:  # fmt: skip
            tensors |= {f"{prefix}.first.{name}": value for name, value in optimizer.first.items()}
            tensors |= {f"{prefix}.second.{name}": value for name, value in optimizer.second.items()}
        return tensors


def _pairs(average: nn.Module, network: nn.Module) -> tuple[list[Tensor], ...]:
    """Weights of both in the same order, then running statistics of both."""
    old, new = named_tensors(average), named_tensors(network)
    lists: tuple[list[Tensor], ...] = ([], [], [], [])
    for name in old:
        first = 2 if "running_" in name else 0
        lists[first].append(old[name])
        lists[first + 1].append(new[name])
    return lists
