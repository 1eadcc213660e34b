"""Adversarial losses and gradient penalties in TensorFlow: those of pytorch_losses.py, term by term.

Scores are (N,), high for real; every loss is a mean over N. Sources: see there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from troika.models.gan.settings import LossName

PairLoss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""(scores of real images, scores of generated ones) -> scalar."""

_mean, _softplus, _relu, _square = tf.reduce_mean, tf.math.softplus, tf.nn.relu, tf.square


@dataclass(frozen=True)
class AdversarialLoss:
    """What each side minimises."""

    discriminator: PairLoss
    generator: PairLoss
    compares_pairs: bool = False
    """Whether the generator's loss looks at real scores."""


LOSSES: dict[LossName, AdversarialLoss] = {
    "relativistic": AdversarialLoss(
        discriminator=lambda real, fake: _mean(_softplus(fake - real)),
        generator=lambda real, fake: _mean(_softplus(real - fake)),
        compares_pairs=True,
    ),
    "non_saturating": AdversarialLoss(
        discriminator=lambda real, fake: _mean(_softplus(-real)) + _mean(_softplus(fake)),
        generator=lambda real, fake: _mean(_softplus(-fake)),  # noqa: ARG005 (the shared signature)
    ),
    "hinge": AdversarialLoss(
        discriminator=lambda real, fake: _mean(_relu(1 - real)) + _mean(_relu(1 + fake)),
        generator=lambda real, fake: -_mean(fake),  # noqa: ARG005
    ),
    "least_squares": AdversarialLoss(
        discriminator=lambda real, fake: (_mean(_square(real - 1)) + _mean(_square(fake))) / 2,
        generator=lambda real, fake: _mean(_square(fake - 1)) / 2,  # noqa: ARG005
    ),
    "wasserstein": AdversarialLoss(
        discriminator=lambda real, fake: _mean(fake) - _mean(real),
        generator=lambda real, fake: -_mean(fake),  # noqa: ARG005
    ),
}


def scores_and_squares(score: Callable[[tf.Tensor], tf.Tensor], images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Scores (N,) of images (N, H, W, C), and the squared length (N,) of the score's gradient at each.

    Both can be differentiated again, in a tape around this one.

    Args:
        score: each image's score from that image alone.
        images: (N, H, W, C).
    """
    with tf.GradientTape() as tape:
        tape.watch(images)
        scores = score(images)
        # An image's score depends on that image alone, so the gradient of the sum holds every image's own.
        total = tf.reduce_sum(scores)
    gradients = tape.gradient(total, images)
    return scores, tf.reduce_sum(_square(gradients), list(range(1, len(images.shape))))


def zero_centred_penalty(squares: tf.Tensor) -> tf.Tensor:
    """R1 at real images, R2 at generated ones: half the mean squared gradient."""
    return _mean(squares) / 2


def one_centred_penalty(squares: tf.Tensor) -> tf.Tensor:
    """WGAN-GP at mixtures: how far the gradient's length is from 1, squared."""
    return _mean(_square(tf.sqrt(squares + 1e-12) - 1))


def mix(real: tf.Tensor, fake: tf.Tensor, shares: tf.Tensor) -> tf.Tensor:
    """Images between real and generated ones (N, H, W, C), at `shares` (N,) of the way."""
    return real + shares[:, None, None, None] * (fake - real)
