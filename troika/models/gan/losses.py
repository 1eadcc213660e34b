"""Adversarial losses and gradient penalties. Scores are (N,), high for real; every loss is a mean over N."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

PairLoss = Callable[[Tensor, Tensor], Tensor]
"""(scores of real images, scores of generated ones) -> scalar."""


@dataclass(frozen=True)
class AdversarialLoss:
    """What each side minimises."""

    discriminator: PairLoss
    generator: PairLoss


LOSSES: dict[str, AdversarialLoss] = {
    # Each generated image against a real one (relativistic pairing, arXiv 1807.00734 and 2501.05441).
    "relativistic": AdversarialLoss(
        discriminator=lambda real, fake: softplus(fake - real).mean(),
        generator=lambda real, fake: softplus(real - fake).mean(),
    ),
    # Binary cross-entropy, the generator's with flipped labels (arXiv 1406.2661).
    "non_saturating": AdversarialLoss(
        discriminator=lambda real, fake: softplus(-real).mean() + softplus(fake).mean(),
        generator=lambda real, fake: softplus(-fake).mean(),  # noqa: ARG005 (the shared signature)
    ),
}


def gradient_penalties(scores: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """R1 and R2: half the mean squared gradient of the score at real and generated images (arXiv 1801.04406).

    Args:
        scores: (2N,), real ones first, computed from `images` with gradients.
        images: (2N, C, H, W), leaf with `requires_grad`.
    """
    # An image's score depends on that image alone, so the gradient of the sum holds every image's own.
    (gradients,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    r1, r2 = (gradients.square().flatten(1).sum(1) / 2).chunk(2)
    return r1.mean(), r2.mean()
