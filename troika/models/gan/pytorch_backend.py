"""One step of GAN training in PyTorch: discriminator, generator, moving average.

Fused Adam; on a GPU bfloat16 passes and channels-last, which no GPU has run yet. Nothing is compiled, nor captured
as a CUDA graph: PyTorch 2.13 cannot compile a gradient penalty's gradient of a gradient.
"""

import logging

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam

from troika.datasets.contract import Dataset
from troika.models.contract import Images, Labels, Latents, ModelSpec, Schedule, quantise
from troika.models.gan.backend import Alone
from troika.models.gan.batches import Indices, derive_seed, shares_of_step
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
    Discriminator,
    Generator,
    get_weights,
    named_tensors,
    put_weights,
)
from troika.models.gan.pytorch_team import Together
from troika.models.gan.saved_state import Tensors
from troika.models.gan.schedules import Hyper
from troika.models.gan.settings import GANSettings

_SAMPLE_BATCH = 512
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
        layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self._generator = Generator(generator, spec.num_classes, settings.label_scale)
        self._average = Generator(generator, spec.num_classes, settings.label_scale).eval()
        self._discriminator = Discriminator(discriminator)
        for network, layers, name in [
            (self._generator, generator, "generator"),
            (self._average, generator, "generator"),
            (self._discriminator, discriminator, "discriminator"),
        ]:
            network.to(device, memory_format=layout)  # type: ignore[call-overload]
            put_weights(network, draw_weights(layers, derive_seed(schedule.seed, name, 0)))
        self._generator_adam = _adam(self._generator, settings, device)
        self._discriminator_adam = _adam(self._discriminator, settings, device)
        self._averaged = _pairs(self._average, self._generator)

        self.feed = Feed(dataset.train, device, layout)
        self._loss = LOSSES[settings.loss]
        self._figures = torch.zeros(REPORT_EVERY, len(FIGURES), device=device)
        self._absent = torch.tensor(ABSENT, device=device)

    # -- one step --------------------------------------------------------------------------------------------

    def step(self, number: int, indices: Indices, latents: Latents, hyper: Hyper) -> None:
        """See Backend."""
        # This step's numbers, data and random state (dropout draws from torch's own).
        for optimizer in (self._generator_adam, self._discriminator_adam):
            _set(optimizer, hyper)
        torch.manual_seed(derive_seed(self._schedule.seed, f"process {self.team.rank} step", number))
        real, classes = self.feed(indices)
        labels = classes if self._spec.conditional else None
        drawn = torch.from_numpy(latents).to(self._device, non_blocking=True)
        noted = dict.fromkeys(FIGURES, self._absent)

        # Both networks' passes may run in half the precision; losses and weights do not.
        with torch.autocast(self._device.type, self._precision, enabled=self._precision != torch.float32):
            fake = self._generator(drawn, labels)
            noted |= self._improve_discriminator(number, real, fake.detach(), labels, hyper)
            noted |= self._improve_generator(number, real, fake, labels)

        # What is kept is not the generator but a moving average of it.
        self._follow(hyper.average_decay)
        torch.stack([noted[name] for name in FIGURES], out=self._figures[number % REPORT_EVERY])

    def _improve_discriminator(
        self, number: int, real: Tensor, fake: Tensor, labels: Tensor | None, hyper: Hyper
    ) -> dict[str, Tensor]:
        weight, penalty = hyper.penalty_weight, self._settings.penalty
        noted: dict[str, Tensor] = {}
        at_images = weight > 0 and penalty in ("r1", "r2", "r1_r2")
        if self._apart:
            real_scores = self._discriminator(real.requires_grad_(at_images and penalty == "r1"), labels)
            fake_scores = self._discriminator(fake.requires_grad_(at_images and penalty == "r2"), labels)
        else:
            # Both halves in one pass.
            images = torch.cat([real, fake]).requires_grad_(at_images)
            scores = self._discriminator(images, None if labels is None else torch.cat([labels, labels]))
            real_scores, fake_scores = scores.chunk(2)
        loss = self._loss.discriminator(real_scores, fake_scores)
        noted["discriminator_loss"] = loss
        noted["score_real"], noted["score_fake"] = real_scores.mean(), fake_scores.mean()

        # The gradient penalty, at every k-th step, k times as strong.
        total = loss
        if at_images and penalty == "r1_r2":
            of_real, of_fake = squared_gradients(scores, images).chunk(2)
            noted["penalty_r1"], noted["penalty_r2"] = zero_centred_penalty(of_real), zero_centred_penalty(of_fake)
            total = total + weight * (noted["penalty_r1"] + noted["penalty_r2"])
        elif at_images:
            at, scores = (real, real_scores) if penalty == "r1" else (fake, fake_scores)
            noted[f"penalty_{penalty}"] = zero_centred_penalty(squared_gradients(scores, at))
            total = total + weight * noted[f"penalty_{penalty}"]
        elif weight > 0:
            mixed = mix(real, fake, self._shares(number, len(real))).requires_grad_()
            squares = squared_gradients(self._discriminator(mixed, labels), mixed)
            noted["penalty_wgan_gp"] = one_centred_penalty(squares)
            total = total + weight * noted["penalty_wgan_gp"]

        norm = self._descend(self._discriminator, self._discriminator_adam, total, notes_gradients(number))
        return {name: value.detach() for name, value in noted.items()} | _named("discriminator", norm)

    def _improve_generator(
        self, number: int, real: Tensor, fake: Tensor, labels: Tensor | None
    ) -> dict[str, Tensor]:
        """By the same images, judged by the discriminator as it is now."""
        real_scores = self._absent
        if self._loss.compares_pairs:
            with torch.no_grad():
                real_scores = self._discriminator(real, labels)
        loss = self._loss.generator(real_scores, self._discriminator(fake, labels))
        norm = self._descend(self._generator, self._generator_adam, loss, notes_gradients(number))
        return {"generator_loss": loss.detach()} | _named("generator", norm)

    def _descend(self, network: nn.Module, optimizer: Adam, loss: Tensor, with_norm: bool) -> Tensor | None:
        """One step of the optimiser; the length of the gradient if it is asked for."""
        optimizer.zero_grad()
        parameters = list(network.parameters())
        torch.autograd.backward(loss, inputs=parameters)  # the other network's gradients are not computed
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if isinstance(self.team, Together):
            self.team.average_gradients(gradients)
        optimizer.step()
        return torch.nn.utils.get_total_norm(gradients) if with_norm else None

    def _shares(self, number: int, count: int) -> Tensor:
        """Of the whole batch, those of this process."""
        start = self.team.rank * count
        shares = shares_of_step(self._schedule.seed, number, self._schedule.batch_size)[start : start + count]
        return torch.from_numpy(shares).to(self._device)

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
        parts = []
        for start in range(0, len(latents), _SAMPLE_BATCH):
            chosen = slice(start, start + _SAMPLE_BATCH)
            classes = None if labels is None else torch.tensor(labels[chosen], device=self._device)
            images = self._average(torch.tensor(latents[chosen], device=self._device), classes)
            parts.append(quantise(images.float().permute(0, 2, 3, 1).cpu().numpy()))
        return np.concatenate(parts)

    def average(self) -> Weights:
        """See Backend."""
        return get_weights(self._average)

    def state(self) -> Tensors:
        """See Backend."""
        return {name: value.detach().cpu().contiguous().numpy().copy() for name, value in self._tensors().items()}

    @torch.no_grad()
    def restore(self, tensors: Tensors, step: int) -> None:
        """See Backend."""
        for name, value in self._tensors().items():
            value.copy_(torch.from_numpy(tensors[name].copy()))
        for optimizer in (self._generator_adam, self._discriminator_adam):
            for moments in optimizer.state.values():
                moments["step"].fill_(step)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"figures": self._figures}
        networks = {
            "generator": self._generator, "discriminator": self._discriminator, "average": self._average
        }  # fmt: skip
        for prefix, network in networks.items():
            tensors |= {f"{prefix}.{name}": value for name, value in named_tensors(network).items()}
        for prefix, network, optimizer in [
            ("generator_adam", self._generator, self._generator_adam),
            ("discriminator_adam", self._discriminator, self._discriminator_adam),
        ]:
            for name, parameter in network.named_parameters():
                moments = optimizer.state[parameter]
                tensors[f"{prefix}.first.{name}"] = moments["exp_avg"]
                tensors[f"{prefix}.second.{name}"] = moments["exp_avg_sq"]
        return tensors


def _adam(network: nn.Module, settings: GANSettings, device: torch.device) -> Adam:
    """Adam whose moments exist from the first, so that they can be saved and restored by name."""
    optimizer = Adam(network.parameters(), weight_decay=settings.l2, fused=True)
    for parameter in network.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def _set(optimizer: Adam, hyper: Hyper) -> None:
    group = optimizer.param_groups[0]
    group["lr"], group["betas"] = hyper.learning_rate, (hyper.beta1, hyper.beta2)


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
