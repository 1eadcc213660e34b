"""One step of GAN training in PyTorch: discriminator, generator, moving average.

What makes it fast: Adam's fused kernel, channels-last from 28 pixels on, no gradient that nobody needs, dropout's
bits from numpy on a CPU, nothing read back from the device. bfloat16 passes on a GPU, which no GPU has run yet.
Nothing is compiled, nor captured as a CUDA graph.
"""

import logging

import numpy as np
import torch
from torch import Tensor, nn

from troika.datasets.contract import Dataset
from troika.models.contract import Images, Labels, Latents, ModelSpec, Schedule, quantise
from troika.models.gan.backend import Alone
from troika.models.gan.batches import Indices, derive_seed, dropout_bits, shares_of_step
from troika.models.gan.figures import ABSENT, FIGURES, REPORT_EVERY, Rows, notes_gradients
from troika.models.gan.layers import Weights, draw_weights
from troika.models.gan.networks import normalises_batches, plan_discriminator, plan_generator
from troika.models.gan.pytorch_data import Feed
from troika.models.gan.pytorch_losses import (
    LOSSES,
    mix,
    one_centred_penalty,
    squared_gradients,
    zero_centred_penalty,
)
from troika.models.gan.pytorch_networks import (
    Bits,
    Discriminator,
    Generator,
    get_weights,
    named_tensors,
    put_weights,
)
from troika.models.gan.pytorch_optimizer import Adam
from troika.models.gan.pytorch_team import Together
from troika.models.gan.saved_state import Tensors
from troika.models.gan.schedules import Hyper
from troika.models.gan.settings import GANSettings

_SAMPLE_BATCH = 512
_CHANNELS_LAST_FROM = 28
"""Pixels; below, a CPU is a little faster without."""
_log = logging.getLogger(__name__)
_COLUMN = {name: index for index, name in enumerate(FIGURES)}


class PyTorchBackend:
    """See Backend. `precision` is that of passes; weights and optimisers are float32."""

    def __init__(
        self,
        dataset: Dataset,
        spec: ModelSpec,
        settings: GANSettings,
        schedule: Schedule,
        device: torch.device,
        precision: torch.dtype,
        team: Alone | Together,
    ) -> None:
        self.team = team
        self._spec, self._settings, self._schedule = spec, settings, schedule
        self._device, self._precision = device, precision

        # Networks, with weights that depend on the seed alone; what is kept is a moving average.
        generator, discriminator = plan_generator(settings, spec), plan_discriminator(settings, spec)
        self._apart = normalises_batches(discriminator) or settings.penalty in ("r1", "r2")
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

        self.feed = Feed(dataset.train, device, layout)
        self._loss = LOSSES[settings.loss]
        self._figures = torch.zeros(REPORT_EVERY, len(FIGURES), device=device)
        self._absent = torch.tensor(ABSENT, device=device)

    # -- one step --------------------------------------------------------------------------------------------

    def step(self, number: int, indices: Indices, latents: Latents, hyper: Hyper) -> None:
        """See Backend."""
        # This step's data, and what its dropout drops.
        real, classes = self.feed(indices)
        bits = self._draw_bits(number, len(indices))
        labels = classes if self._spec.conditional else None
        drawn = torch.from_numpy(latents).to(self._device, non_blocking=True)
        noted = dict.fromkeys(FIGURES, self._absent)

        # Both networks' passes may run in half the precision; losses and weights do not.
        with torch.autocast(self._device.type, self._precision, enabled=self._precision != torch.float32):
            fake = self._generator(drawn, labels)
            noted |= self._improve_discriminator(number, real, fake.detach(), labels, bits, hyper)
            noted |= self._improve_generator(number, real, fake, labels, bits, hyper)

        # What is kept is not the generator but a moving average of it.
        self._average_is_behind = hyper.average_decay == 0
        if not self._average_is_behind:
            self._follow(hyper.average_decay)
        torch.stack([noted[name] for name in FIGURES], out=self._figures[number % REPORT_EVERY])

    def _improve_discriminator(
        self, number: int, real: Tensor, fake: Tensor, labels: Tensor | None, bits: list[Bits] | None, hyper: Hyper
    ) -> dict[str, Tensor]:
        weight, penalty = hyper.penalty_weight, self._settings.penalty
        noted: dict[str, Tensor] = {}
        at_images = weight > 0 and penalty in ("r1", "r2", "r1_r2")
        of_real, of_fake = bits[:2] if bits else (None, None)
        if self._apart:
            real_scores = self._discriminator(real.requires_grad_(at_images and penalty == "r1"), labels, of_real)
            fake_scores = self._discriminator(fake.requires_grad_(at_images and penalty == "r2"), labels, of_fake)
        else:
            # Both halves in one pass.
            images = torch.cat([real, fake]).requires_grad_(at_images)
            twice = None if labels is None else torch.cat([labels, labels])
            scores = self._discriminator(images, twice, np.concatenate(bits[:2]) if bits else None)
            real_scores, fake_scores = scores.chunk(2)
        loss = self._loss.discriminator(real_scores, fake_scores)
        noted["discriminator_loss"] = loss
        noted["score_real"], noted["score_fake"] = real_scores.mean(), fake_scores.mean()

        # The gradient penalty, at every k-th step, k times as strong.
        total = loss
        if at_images and penalty == "r1_r2":
            at_real, at_fake = squared_gradients(scores, images).chunk(2)
            noted["penalty_r1"], noted["penalty_r2"] = zero_centred_penalty(at_real), zero_centred_penalty(at_fake)
            total = total + weight * (noted["penalty_r1"] + noted["penalty_r2"])
        elif at_images:
            at, scores = (real, real_scores) if penalty == "r1" else (fake, fake_scores)
            noted[f"penalty_{penalty}"] = zero_centred_penalty(squared_gradients(scores, at))
            total = total + weight * noted[f"penalty_{penalty}"]
        elif weight > 0:
            mixed = mix(real, fake, self._shares(number, len(real))).requires_grad_()
            squares = squared_gradients(self._discriminator(mixed, labels, of_real), mixed)
            noted["penalty_wgan_gp"] = one_centred_penalty(squares)
            total = total + weight * noted["penalty_wgan_gp"]

        norm = self._descend(self._discriminator_adam, total, hyper, notes_gradients(number))
        return {name: value.detach() for name, value in noted.items()} | _named("discriminator", norm)

    def _improve_generator(
        self, number: int, real: Tensor, fake: Tensor, labels: Tensor | None, bits: list[Bits] | None, hyper: Hyper
    ) -> dict[str, Tensor]:
        """By the same images, judged by the discriminator as it is now."""
        real_scores = self._absent
        if self._loss.compares_pairs:
            with torch.no_grad():
                real_scores = self._discriminator(real, labels, bits[3] if bits else None)
        fake_scores = self._discriminator(fake, labels, bits[2] if bits else None)
        loss = self._loss.generator(real_scores, fake_scores)
        norm = self._descend(self._generator_adam, loss, hyper, notes_gradients(number))
        return {"generator_loss": loss.detach()} | _named("generator", norm)

    def _descend(self, optimizer: Adam, loss: Tensor, hyper: Hyper, with_norm: bool) -> Tensor | None:
        """One step of the optimiser; the length of the gradient if it is asked for."""
        gradients = optimizer.gradients(loss)
        if isinstance(self.team, Together):
            self.team.average_gradients(gradients)
        optimizer.apply(gradients, hyper)
        return torch.nn.utils.get_total_norm(gradients) if with_norm else None

    def _draw_bits(self, number: int, count: int) -> list[Bits] | None:
        """The share of dropout's bits that is for this process.

        For the discriminator's step at real and generated images, then for the generator's at generated and, if
        its loss compares pairs, real ones. None on a GPU, which draws its own, and where nothing is dropped.
        """
        widths = self._discriminator.dropout_widths
        if self._device.type != "cpu":
            torch.manual_seed(derive_seed(self._schedule.seed, f"process {self.team.rank} step", number))
            return None
        if not widths:
            return None
        passes, start = 4 if self._loss.compares_pairs else 3, self.team.rank * count
        bits = dropout_bits(self._schedule.seed, number, passes, self._schedule.batch_size, sum(widths))
        return list(bits[:, start : start + count])

    def _shares(self, number: int, count: int) -> Tensor:
        """Of the whole batch, those of this process."""
        start = self.team.rank * count
        shares = shares_of_step(self._schedule.seed, number, self._schedule.batch_size)[start : start + count]
        return torch.from_numpy(shares).to(self._device)

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


def _named(network: str, norm: Tensor | None) -> dict[str, Tensor]:
    return {} if norm is None else {f"{network}_gradient_norm": norm.detach()}
