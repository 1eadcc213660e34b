"""Adversarial losses and gradient penalties. Scores are (N,), high for real; every loss is a mean over N.

A loss compares scores; a penalty looks at the discriminator's gradient. Each stands alone, and any loss goes with
any penalty.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from troika.models.gan.settings import LossName

PairLoss = Callable[[Tensor, Tensor], Tensor]
"""(scores of real images, scores of generated ones) -> scalar."""


@dataclass(frozen=True)
class AdversarialLoss:
    """What each side minimises."""

    discriminator: PairLoss
    generator: PairLoss
    compares_pairs: bool = False
    """Whether the generator's loss looks at real scores."""


LOSSES: dict[LossName, AdversarialLoss] = {
    # Each generated image against a real one (relativistic pairing, arXiv 1807.00734 and 2501.05441).
    "relativistic": AdversarialLoss(
        discriminator=lambda real, fake: softplus(fake - real).mean(),
        generator=lambda real, fake: softplus(real - fake).mean(),
        compares_pairs=True,
    ),
    # Binary cross-entropy, the generator's with flipped labels (arXiv 1406.2661).
    "non_saturating": AdversarialLoss(
        discriminator=lambda real, fake: softplus(-real).mean() + softplus(fake).mean(),
        generator=lambda real, fake: softplus(-fake).mean(),  # noqa: ARG005 (the shared signature)
    ),
    # Scores beyond the margin count no more (arXiv 1705.02894).
    "hinge": AdversarialLoss(
        discriminator=lambda real, fake: relu(1 - real).mean() + relu(1 + fake).mean(),
        generator=lambda real, fake: -fake.mean(),  # noqa: ARG005
    ),
    # Real to 1, generated to 0 (arXiv 1611.04076).
    "least_squares": AdversarialLoss(
        discriminator=lambda real, fake: ((real - 1).square().mean() + fake.square().mean()) / 2,
        generator=lambda real, fake: (fake - 1).square().mean() / 2,  # noqa: ARG005
    ),
    # The critic's estimate of the Wasserstein distance; it needs a penalty (arXiv 1701.07875).
    "wasserstein": AdversarialLoss(
        discriminator=lambda real, fake: fake.mean() - real.mean(),
        generator=lambda real, fake: -fake.mean(),  # noqa: ARG005
    ),
}


def squared_gradients(scores: Tensor, images: Tensor) -> Tensor:
    """Squared length (N,) of the score's gradient at each image; it can itself be minimised.

    Args:
        scores: (N,), computed from `images` with gradients, each from its own image alone.
        images: (N, C, H, W), with `requires_grad`.
    """
    # An image's score depends on that image alone, so the gradient of the sum holds every image's own.
    (gradients,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradients.float().square().flatten(1).sum(1)


def zero_centred_penalty(squares: Tensor) -> Tensor:
    """R1 at real images, R2 at generated ones: half the mean squared gradient (arXiv 1801.04406)."""
    return squares.mean() / 2


def one_centred_penalty(squares: Tensor) -> Tensor:
    """WGAN-GP at mixtures: how far the gradient's length is from 1, squared (arXiv 1704.00028)."""
    return ((squares + 1e-12).sqrt() - 1).square().mean()


def mix(real: Tensor, fake: Tensor, shares: Tensor) -> Tensor:
    """Images between real and generated ones (N, C, H, W), at `shares` (N,) of the way."""
    return real + shares[:, None, None, None] * (fake - real)
