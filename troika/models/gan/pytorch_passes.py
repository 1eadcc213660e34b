"""Both networks' passes of a step: from inputs on the device to losses and gradients. No weight changes here."""

from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from troika.models.gan.pytorch_data import Feed
from troika.models.gan.pytorch_inputs import Inputs
from troika.models.gan.pytorch_losses import (
    LOSSES,
    mix,
    one_centred_penalty,
    squared_gradients,
    zero_centred_penalty,
)
from troika.models.gan.pytorch_networks import Bits, Discriminator, Generator, named_tensors
from troika.models.gan.pytorch_optimizer import Adam
from troika.models.gan.settings import GANSettings
from troika.models.gan.updates import LEAST_SLOPE


class Found(NamedTuple):
    """What a pass gives."""

    noted: dict[str, Tensor]
    """Figure -> scalar."""
    gradients: list[Tensor]
    """In the order of the optimiser's weights."""


class _Batch(NamedTuple):
    """What the generator's pass takes over from the discriminator's."""

    real: Tensor
    fake: Tensor
    labels: Tensor | None
    loss: Tensor | None
    """Of the generator, and ..."""
    slopes: Tensor | None
    """... its gradient at the generated images, where both are known already."""


class Passes:
    """The discriminator's pass and the generator's, in this order.

    `inputs` holds what `feed` asks for, `latents` float32 (B, latent_size), `penalty_weight` float64 () (more
    than float32 holds is infinite here, not an error on the way) and, for WGAN-GP, `shares` float32 (B,).
    """

    def __init__(
        self,
        settings: GANSettings,
        feed: Feed,
        inputs: Inputs,
        optimizers: tuple[Adam, Adam],
        networks: tuple[Generator, Discriminator],
        precision: torch.dtype,
        *,
        apart: bool,
    ) -> None:
        self._settings, self._feed, self._inputs = settings, feed, inputs
        self._generator, self._discriminator = networks
        self._generator_adam, self._discriminator_adam = optimizers
        self._precision = precision
        self._apart = apart
        self._loss = LOSSES[settings.loss]
        self._batch: _Batch | None = None
        self.bits: list[Bits] | None = None
        """What dropout drops in a step's passes of the discriminator; None: PyTorch decides."""
        self.running_statistics = [
            value for network in networks for name, value in named_tensors(network).items() if "running_" in name
        ]
        """All that a pass changes and that anything depends on."""

    def discriminator(self, *, penalised: bool) -> Found:
        """Gradients of the discriminator's loss, with or without its penalty."""
        with self._reduced():
            real, classes = self._feed.batch(self._inputs)
            labels = classes if self._settings.conditional else None
            fake = self._generator(self._inputs["latents"], labels)
            noted, total, scores = self._judge(real, fake.detach(), labels, penalised)
            if self._settings.updates == "simultaneous":
                return self._both_at_once(_Batch(real, fake, labels, None, None), noted, total, scores)
        self._batch = _Batch(real, fake, labels, None, None)
        return Found(_detached(noted), self._discriminator_adam.gradients(total))

    def _both_at_once(
        self, batch: _Batch, noted: dict[str, Tensor], total: Tensor, scores: tuple[Tensor, Tensor]
    ) -> Found:
        """On the way back to the discriminator's weights, the generator's gradient at the images is found, too.

        The slope of either loss at an image is that of its score, times the slope at the score, which differ
        between the losses by a factor for each image (arXiv 2103.00430).
        """
        real_scores, fake_scores = scores[0].detach(), scores[1].detach().requires_grad_()
        loss = self._loss.generator(real_scores, fake_scores)
        (of_generator,) = torch.autograd.grad(loss, fake_scores)
        (of_discriminator,) = torch.autograd.grad(self._loss.discriminator(real_scores, fake_scores), fake_scores)
        factors = of_generator / of_discriminator.clamp(min=LEAST_SLOPE)

        *gradients, slopes = self._discriminator_adam.gradients(total, self._discriminator.take_first_outputs())
        slopes = slopes[len(batch.real) :]
        slopes = (slopes * factors.view(-1, *[1] * (slopes.ndim - 1))).to(slopes.dtype)
        self._batch = batch._replace(loss=loss.detach(), slopes=self._discriminator.slopes_at_images(slopes))
        return Found(_detached(noted), gradients)

    def generator(self) -> Found:
        """Gradients of the generator's loss, by the same images, judged by the discriminator as it is or was."""
        assert self._batch is not None  # noqa: S101 - the discriminator's pass comes first
        (real, fake, labels, known, slopes), self._batch = self._batch, None
        if known is not None:
            return Found({"generator_loss": known}, self._generator_adam.gradients(fake, slopes=slopes))
        with self._reduced():
            real_scores = fake.new_empty(0)
            if self._loss.compares_pairs:
                with torch.no_grad():
                    real_scores = self._discriminator(real, labels, self.bits[3] if self.bits else None)
            fake_scores = self._discriminator(fake, labels, self.bits[2] if self.bits else None)
            loss = self._loss.generator(real_scores, fake_scores)
        return Found(_detached({"generator_loss": loss}), self._generator_adam.gradients(loss))

    def _judge(
        self, real: Tensor, fake: Tensor, labels: Tensor | None, penalised: bool
    ) -> tuple[dict[str, Tensor], Tensor, tuple[Tensor, Tensor]]:
        """Figures by name, what the discriminator minimises, and scores of real and generated images."""
        penalty, bits = self._settings.penalty, self.bits
        noted: dict[str, Tensor] = {}
        at_images = penalised and penalty in ("r1", "r2", "r1_r2")
        of_real, of_fake = bits[:2] if bits else (None, None)
        if self._apart:
            at_real, at_fake = at_images and penalty == "r1", at_images and penalty == "r2"
            real_scores = self._discriminator(real.requires_grad_(at_real), labels, of_real, penalised=at_real)
            fake_scores = self._discriminator(fake.requires_grad_(at_fake), labels, of_fake, penalised=at_fake)
        else:
            # Both halves in one pass.
            images = torch.cat([real, fake]).requires_grad_(at_images)
            of_both = None if labels is None else torch.cat([labels, labels])
            dropped = np.concatenate(bits[:2]) if bits else None
            at_once = self._settings.updates == "simultaneous"
            scores = self._discriminator(images, of_both, dropped, penalised=at_images, keep_first=at_once)
            real_scores, fake_scores = scores.chunk(2)
        loss = self._loss.discriminator(real_scores, fake_scores)
        noted["discriminator_loss"] = loss
        noted["score_real"], noted["score_fake"] = real_scores.mean(), fake_scores.mean()
        if not penalised:
            return noted, loss, (real_scores, fake_scores)

        # The gradient penalty, at every k-th step, k times as strong.
        if penalty == "r1_r2":
            of_each = [zero_centred_penalty(squares) for squares in squared_gradients(scores, images).chunk(2)]
            noted["penalty_r1"], noted["penalty_r2"] = of_each
            amount = noted["penalty_r1"] + noted["penalty_r2"]
        elif penalty == "wgan_gp":
            mixed = mix(real, fake, self._inputs["shares"]).requires_grad_()
            squares = squared_gradients(self._discriminator(mixed, labels, of_real, penalised=True), mixed)
            amount = noted["penalty_wgan_gp"] = one_centred_penalty(squares)
        else:
            at, scores = (real, real_scores) if penalty == "r1" else (fake, fake_scores)
            amount = noted[f"penalty_{penalty}"] = zero_centred_penalty(squared_gradients(scores, at))
        return noted, loss + self._inputs["penalty_weight"].float() * amount, (real_scores, fake_scores)

    def _reduced(self) -> AbstractContextManager[None]:
        """Passes may run in half the precision; losses and weights do not.

        Each pass has a block of its own: inside one, weights that have been rounded once stay as they were.
        """
        device = self._generator_adam.weights[0].device.type
        return torch.autocast(device, self._precision, enabled=self._precision != torch.float32)


def _detached(noted: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in noted.items()}
