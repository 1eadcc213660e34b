"""The GAN training loop: dataset, settings and schedule -> a generator's weights.

Every step depends on the weights before it, the seed and its own number, so a resumed run gives bit by bit
what an uninterrupted one on the same machine would have given. Networks, losses, batches and the saved state
have modules of their own.
"""

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from troika.datasets.contract import Dataset
from troika.errors import ParameterError, TroikaError
from troika.models.contract import ModelSpec, Progress, Schedule
from troika.models.gan.batches import Batches, derive_seed
from troika.models.gan.losses import LOSSES, gradient_penalties
from troika.models.gan.networks import Generator, build_discriminator, build_generator, draw_weights
from troika.models.gan.resume import identify_training, load_state, save_state
from troika.models.gan.settings import GANSettings
from troika.torch_threads import few_threads

REPORT_EVERY = 50
"""Steps between two reports; losses are read from the device no more often."""


def train_generator(
    dataset: Dataset,
    *,
    spec: ModelSpec,
    settings: GANSettings,
    schedule: Schedule,
    state: Path,
    report: Callable[[Progress], None],
    device: torch.device,
) -> Generator:
    """Train on `dataset.train`, resuming from the folder `state` if that holds this very training.

    Raises:
        ParameterError: the network cannot make images of this shape, or the schedule is out of range.
        TroikaError: a loss is no longer finite, or the state cannot be saved.
    """
    _check_schedule(schedule)

    # The caller's random state and threads are as before afterwards; cuDNN is held to repeatable kernels.
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
        few_threads(),
    ):
        # Networks, with weights that depend on the seed alone.
        torch.manual_seed(derive_seed(schedule.seed, "weights", 0))
        generator, discriminator = build_generator(settings, spec), build_discriminator(settings, spec)
        for network in (generator, discriminator):
            draw_weights(network)
            network.to(device)
        average = copy.deepcopy(generator)
        generator_optimizer = Adam(generator.parameters(), fused=True)
        discriminator_optimizer = Adam(discriminator.parameters(), fused=True)

        # Where an earlier run of this training was cut off.
        identity = identify_training(dataset, spec.preset, settings, schedule)
        networks: dict[str, nn.Module] = {
            "generator": generator, "discriminator": discriminator, "average": average
        }  # fmt: skip
        optimizers: dict[str, Optimizer] = {
            "generator_optimizer": generator_optimizer, "discriminator_optimizer": discriminator_optimizer
        }  # fmt: skip
        first_step = load_state(state, identity, networks, optimizers)

        batches = Batches(dataset.train, schedule.batch_size, schedule.seed, device)
        loss = LOSSES[settings.loss]
        losses = _Losses(settings, schedule, first_step, report, device)
        saved = time.monotonic()

        for step in range(first_step, schedule.steps):
            # This step's schedules, data and random numbers (dropout draws from torch's own state).
            done = step / schedule.steps
            _set_adam(generator_optimizer, settings, done)
            _set_adam(discriminator_optimizer, settings, done)
            torch.manual_seed(derive_seed(schedule.seed, "step", step))
            real, classes = batches(step)
            labels = classes if spec.conditional else None
            latents = torch.randn(schedule.batch_size, spec.latent_size, device=device)
            fake = generator(latents, labels)

            # Discriminator: both halves in one pass; penalties at every k-th step, k times as strong.
            gamma = cosine(settings.penalty_gamma_start, settings.penalty_gamma_end, done)
            penalise = gamma > 0 and step % settings.penalty_every == 0
            images = torch.cat([real, fake.detach()]).requires_grad_(penalise)
            scores = discriminator(images, None if labels is None else torch.cat([labels, labels]))
            discriminator_loss = loss.discriminator(*scores.chunk(2))
            total = discriminator_loss
            if penalise:
                r1, r2 = gradient_penalties(scores, images)
                total = total + gamma * settings.penalty_every * (r1 + r2)
            discriminator_optimizer.zero_grad()
            torch.autograd.backward(total)
            discriminator_optimizer.step()

            # Generator: the same images, judged by the discriminator as it is now.
            with torch.no_grad():
                real_scores = discriminator(real, labels)
            generator_loss = loss.generator(real_scores, discriminator(fake, labels))
            generator_optimizer.zero_grad()
            torch.autograd.backward(generator_loss, inputs=list(generator.parameters()))  # not the other's
            generator_optimizer.step()

            # What is kept is not the generator but a moving average of it.
            _follow(average, generator, _average_decay(settings, step + 1, schedule.batch_size))

            losses.add(step + 1, generator_loss, discriminator_loss)
            if time.monotonic() - saved >= schedule.checkpoint_seconds and step + 1 < schedule.steps:
                losses.check()
                save_state(state, identity, step + 1, networks, optimizers)
                saved = time.monotonic()

    return average


def _check_schedule(schedule: Schedule) -> None:
    for name, value, least in [("steps", schedule.steps, 1), ("batch_size", schedule.batch_size, 2)]:
        if value < least:
            raise ParameterError(f"{name}: {value} is too small; at least {least}")


def cosine(start: float, end: float, done: float) -> float:
    """From `start` to `end` on half a cosine, for `done` in 0..1."""
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def _set_adam(optimizer: Optimizer, settings: GANSettings, done: float) -> None:
    group = optimizer.param_groups[0]
    group["lr"] = cosine(settings.learning_rate_start, settings.learning_rate_end, done)
    group["betas"] = (settings.beta1, cosine(settings.beta2_start, settings.beta2_end, done))


def _average_decay(settings: GANSettings, step: int, batch_size: int) -> float:
    """What one step leaves of the moving average, in 0..1; 0 copies the generator."""
    half_life = min(settings.ema_half_life_images, settings.ema_ramp * step * batch_size)
    return 0.5 ** (batch_size / half_life) if half_life > 0 else 0.0


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    for old, new in zip(average.parameters(), network.parameters(), strict=True):
        old.lerp_(new, 1 - decay)
    for statistic, current in zip(average.buffers(), network.buffers(), strict=True):
        statistic.copy_(current)  # running statistics are averages already


class _Losses:
    """Collects losses on the device and reads them every REPORT_EVERY steps."""

    def __init__(
        self,
        settings: GANSettings,
        schedule: Schedule,
        first_step: int,
        report: Callable[[Progress], None],
        device: torch.device,
    ) -> None:
        self._settings, self._schedule, self._report = settings, schedule, report
        self._values = torch.zeros(REPORT_EVERY, 2, device=device)
        self._first, self._count = first_step, 0
        self._since = time.monotonic()

    def add(self, step: int, generator: Tensor, discriminator: Tensor) -> None:
        """Note the losses of step 1, 2, ...; report if it is time."""
        torch.stack([generator.detach(), discriminator.detach()], out=self._values[self._count])
        self._count += 1
        if step % REPORT_EVERY and step < self._schedule.steps:
            return
        self.check()
        generator_loss, discriminator_loss = self._values[: self._count].mean(0).tolist()
        seconds = time.monotonic() - self._since
        self._report(
            Progress(
                step=step,
                steps=self._schedule.steps,
                images_per_second=self._count * self._schedule.batch_size / seconds,
                losses={"generator": generator_loss, "discriminator": discriminator_loss},
            )
        )
        self._first, self._count, self._since = step, 0, time.monotonic()

    def check(self) -> None:
        """Raise TroikaError if one of the losses since the last report is not finite."""
        finite = self._values[: self._count].isfinite().all(1).tolist()
        if not all(finite):
            step = self._first + finite.index(False) + 1
            rate = self._settings.learning_rate_start
            raise TroikaError(
                f"training diverged: the loss of step {step} is not a finite number; "
                f"try learning_rate_start {rate / 4:g} instead of {rate:g}"
            )
