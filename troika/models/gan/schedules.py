"""What changes from step to step: learning rate, beta2, penalty weight, moving average. Knows no framework."""

import math
from dataclasses import dataclass

from troika.models.contract import Schedule
from troika.models.gan.settings import GANSettings


@dataclass(frozen=True)
class Hyper:
    """The numbers of one step."""

    learning_rate: float
    beta1: float
    beta2: float
    penalty_weight: float
    """Of the gradient penalty at this step; 0: not computed. `penalty_every` is a factor of it already."""
    average_decay: float
    """What this step leaves of the moving average, in 0..1; 0 copies the generator."""


def hyper_at(settings: GANSettings, schedule: Schedule, step: int) -> Hyper:
    """The numbers of step 0, 1, 2, ...; they depend on nothing but the step."""
    done = step / schedule.steps
    gamma = 0.0
    if settings.penalty != "none" and step % settings.penalty_every == 0:
        gamma = cosine(settings.penalty_gamma_start, settings.penalty_gamma_end, done) * settings.penalty_every
    return Hyper(
        learning_rate=cosine(settings.learning_rate_start, settings.learning_rate_end, done),
        beta1=settings.beta1,
        beta2=cosine(settings.beta2_start, settings.beta2_end, done),
        penalty_weight=gamma,
        average_decay=average_decay(settings, step + 1, schedule.batch_size),
    )


def cosine(start: float, end: float, done: float) -> float:
    """From `start` to `end` on half a cosine, for `done` in 0..1."""
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def average_decay(settings: GANSettings, step: int, batch_size: int) -> float:
    """`Hyper.average_decay` after step 1, 2, ...: half-lives in images, ramped up (arXiv 2206.00364)."""
    half_life = min(settings.ema_half_life_images, settings.ema_ramp * step * batch_size)
    return 0.5 ** (batch_size / half_life) if half_life > 0 else 0.0
