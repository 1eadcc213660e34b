"""One step of GAN training in TensorFlow: discriminator, generator, moving average.

Twin of pytorch_backend.py: the same order of passes, the same Adam, the same random numbers. Every
step is one graph, or two: with and without the penalty.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from troika.datasets.contract import Dataset
from troika.models.contract import Images, Labels, Latents, ModelSpec, Schedule, quantise
from troika.models.gan.backend import Alone, Team
from troika.models.gan.batches import Indices, derive_seed, dropout_bits, shares_of_step
from troika.models.gan.figures import ABSENT, FIGURES, REPORT_EVERY, Rows, notes_gradients
from troika.models.gan.layers import Weights, draw_weights
from troika.models.gan.networks import normalises_batches, plan_discriminator, plan_generator
from troika.models.gan.saved_state import Tensors
from troika.models.gan.schedules import Hyper
from troika.models.gan.settings import GANSettings
from troika.models.gan.tensorflow_losses import (
    LOSSES,
    mix,
    one_centred_penalty,
    scores_and_squares,
    zero_centred_penalty,
)
from troika.models.gan.tensorflow_networks import Network
from troika.models.gan.tensorflow_optimizer import Adam, AdamNumbers, gradient_norm
from troika.models.gan.updates import LEAST_SLOPE, passes_of

_Figures = dict[str, Any]


@dataclass(frozen=True)
class _Batch:
    """What a step works on, as tensors of its graph."""

    real: tf.Tensor
    """float32 (B, H, W, C) in -1..1."""
    one_hot: tf.Tensor
    """float32 (B, classes)."""
    latents: tf.Tensor
    shares: tf.Tensor
    """float32 (B,), of the mixtures of WGAN-GP."""
    dropout: tf.Tensor
    """uint16 (2 B to 4 B, values): for the discriminator's step at real and generated images; then, if they are
    judged again, for the generator's at generated and, if its loss compares pairs, real ones."""
    numbers: tf.Tensor
    """AdamNumbers, penalty weight, average decay."""
    noting: tf.Tensor
    """Whether gradient norms are noted."""


class TensorFlowBackend:
    """See loop.Backend. `policy` is Keras's for passes; weights and optimisers are float32."""

    def __init__(
        self,
        dataset: Dataset,
        spec: ModelSpec,
        settings: GANSettings,
        schedule: Schedule,
        policy: str,
        *,
        xla: bool,
    ) -> None:
        self.team: Team = Alone()
        self._split, self._spec, self._settings, self._seed = dataset.train, spec, settings, schedule.seed

        # Networks, with weights that depend on the seed alone; what is kept is a moving average.
        generator, discriminator = plan_generator(settings, spec), plan_discriminator(settings, spec)
        self._apart = normalises_batches(discriminator) or settings.penalty in ("r1", "r2")
        inputs = (spec.latent_size + (spec.num_classes if spec.conditional else 0),)
        self._generator = Network(generator, inputs, policy)
        self._average = Network(generator, inputs)
        self._discriminator = Network(discriminator, spec.image_shape, policy)
        for network, layers, name in [
            (self._generator, generator, "generator"),
            (self._average, generator, "generator"),
            (self._discriminator, discriminator, "discriminator"),
        ]:
            network.set_weights(draw_weights(layers, derive_seed(schedule.seed, name, 0)))
        self._generator_adam = Adam(self._generator.trained, settings.l2)
        self._discriminator_adam = Adam(self._discriminator.trained, settings.l2)

        self._loss = LOSSES[settings.loss]
        values = sum(int(np.prod(shape)) for _, shape in self._discriminator.dropouts)
        self._dropout_shape = (passes_of(settings, compares_pairs=self._loss.compares_pairs), values)
        self._average_is_behind = False
        self._rows: list[Any] = [np.zeros(len(FIGURES), np.float32)] * REPORT_EVERY
        self._graph = tf.function(self._train, jit_compile=xla)
        specs = [tf.TensorSpec((None, spec.latent_size), tf.float32), tf.TensorSpec((None,), tf.int64)]
        self._sampling = tf.function(self._draw, input_signature=specs)

    # -- one step ----------------------------------------------------------------------------------------------

    def step(self, number: int, indices: Indices, latents: Latents, hyper: Hyper) -> None:
        """See loop.Backend."""
        # All that is random comes from outside of the graph, and from the step's number.
        passes, values = self._dropout_shape
        bits = dropout_bits(self._seed, number, passes, len(indices), values)
        mixes = self._settings.penalty == "wgan_gp"
        shares = shares_of_step(self._seed, number, len(indices)) if mixes else np.zeros(1, np.float32)
        numbers = [*AdamNumbers.of(hyper, number + 1), hyper.penalty_weight, hyper.average_decay]
        self._rows[number % REPORT_EVERY] = self._graph(
            tf.constant(self._split.images[indices]),
            tf.constant(self._split.labels[indices]),
            tf.constant(latents),
            tf.constant(shares),
            tf.constant(bits.reshape(passes * len(indices), values)),
            tf.constant(numbers, tf.float32),
            tf.constant(notes_gradients(number)),
            penalise=hyper.penalty_weight > 0,
            average=hyper.average_decay > 0,
        )
        self._average_is_behind = hyper.average_decay == 0

    def _train(
        self,
        pixels: tf.Tensor,
        labels: tf.Tensor,
        latents: tf.Tensor,
        shares: tf.Tensor,
        dropout: tf.Tensor,
        numbers: tf.Tensor,
        noting: tf.Tensor,
        *,
        penalise: bool,
        average: bool,
    ) -> tf.Tensor:
        """The graph. Returns a row of figures."""
        real = tf.cast(pixels, tf.float32) / 127.5 - 1.0
        one_hot = tf.one_hot(labels, self._spec.num_classes)
        batch = _Batch(real, one_hot, latents, shares, dropout, numbers, noting)
        noted: _Figures = {name: tf.constant(ABSENT) for name in FIGURES}

        # Both networks learn from the same images.
        to_generator = tf.GradientTape()
        with to_generator:
            fake = self._generator(self._with_labels(latents, one_hot), training=True)
        if self._settings.updates == "simultaneous":
            noted |= self._improve_both(batch, fake, to_generator)
        else:
            noted |= self._improve_discriminator(batch, tf.stop_gradient(fake), penalise=penalise)
            noted |= self._improve_generator(batch, fake, to_generator)

        # What is kept is not the generator but a moving average of it.
        if average:
            self._average.follow(self._generator, numbers[-1])
        return tf.stack([noted[name] for name in FIGURES])

    def _improve_discriminator(self, batch: _Batch, fake: tf.Tensor, *, penalise: bool) -> _Figures:
        penalty = self._settings.penalty if penalise else "none"
        real, labels, size = batch.real, batch.one_hot, batch.real.shape[0]
        noted: _Figures = {}

        def score(images: tf.Tensor, of: tf.Tensor = labels, first_bits: int = 0) -> tf.Tensor:
            return self._score(images, of, batch.dropout[first_bits : first_bits + images.shape[0]])

        with tf.GradientTape() as tape:
            if self._apart and penalty == "r1":
                real_scores, squares = scores_and_squares(score, real)
                fake_scores = score(fake, first_bits=size)
                noted["penalty_r1"] = zero_centred_penalty(squares)
            elif self._apart and penalty == "r2":
                real_scores = score(real)
                fake_scores, squares = scores_and_squares(lambda images: score(images, first_bits=size), fake)
                noted["penalty_r2"] = zero_centred_penalty(squares)
            elif self._apart:
                real_scores, fake_scores = score(real), score(fake, first_bits=size)
            else:
                # Both halves in one pass.
                images, twice = tf.concat([real, fake], 0), tf.concat([labels, labels], 0)
                if penalty == "r1_r2":
                    scores, squares = scores_and_squares(lambda both: score(both, twice), images)
                    of_real, of_fake = tf.split(squares, 2)
                    noted["penalty_r1"] = zero_centred_penalty(of_real)
                    noted["penalty_r2"] = zero_centred_penalty(of_fake)
                else:
                    scores = score(images, twice)
                real_scores, fake_scores = tf.split(scores, 2)
            if penalty == "wgan_gp":
                _, squares = scores_and_squares(score, mix(real, fake, batch.shares))
                noted["penalty_wgan_gp"] = one_centred_penalty(squares)
            loss = self._loss.discriminator(real_scores, fake_scores)
            # The gradient penalty, at every k-th step, k times as strong.
            total = loss + batch.numbers[-2] * tf.add_n(list(noted.values())) if noted else loss
        gradients = tape.gradient(total, self._discriminator_adam.weights)
        self._discriminator_adam.apply(gradients, AdamNumbers(*tf.unstack(batch.numbers[:5])))
        return noted | {
            "discriminator_loss": loss,
            "score_real": tf.reduce_mean(real_scores),
            "score_fake": tf.reduce_mean(fake_scores),
            "discriminator_gradient_norm": _norm_if(batch.noting, gradients),
        }

    def _improve_both(self, batch: _Batch, fake: tf.Tensor, to_generator: tf.GradientTape) -> _Figures:
        """Both gradients from one pass of the discriminator as it was; see pytorch_passes.py."""
        images, labels = tf.stop_gradient(fake), tf.concat([batch.one_hot, batch.one_hot], 0)
        with tf.GradientTape() as tape:
            tape.watch(images)
            scores = self._score(tf.concat([batch.real, images], 0), labels, batch.dropout)
            real_scores, fake_scores = tf.split(scores, 2)
            loss = self._loss.discriminator(real_scores, fake_scores)
        *gradients, slopes = tape.gradient(loss, [*self._discriminator_adam.weights, images])

        with tf.GradientTape(persistent=True) as at_scores:
            at_scores.watch(fake_scores)
            of_discriminator = self._loss.discriminator(real_scores, fake_scores)
            of_generator = self._loss.generator(real_scores, fake_scores)
        factors = at_scores.gradient(of_generator, fake_scores) / tf.maximum(
            at_scores.gradient(of_discriminator, fake_scores), LEAST_SLOPE
        )
        slopes *= factors[:, None, None, None]
        of_weights = to_generator.gradient(fake, self._generator_adam.weights, output_gradients=slopes)
        numbers = AdamNumbers(*tf.unstack(batch.numbers[:5]))
        self._discriminator_adam.apply(gradients, numbers)
        self._generator_adam.apply(of_weights, numbers)
        return {
            "discriminator_loss": loss,
            "generator_loss": of_generator,
            "score_real": tf.reduce_mean(real_scores),
            "score_fake": tf.reduce_mean(fake_scores),
            "discriminator_gradient_norm": _norm_if(batch.noting, gradients),
            "generator_gradient_norm": _norm_if(batch.noting, of_weights),
        }

    def _improve_generator(self, batch: _Batch, fake: tf.Tensor, tape: tf.GradientTape) -> _Figures:
        """By the same images, judged by the discriminator as it is now."""
        size = batch.real.shape[0]
        real_scores = tf.constant(ABSENT)
        if self._loss.compares_pairs:
            real_scores = self._score(batch.real, batch.one_hot, batch.dropout[3 * size :])
        with tape:
            fake_scores = self._score(fake, batch.one_hot, batch.dropout[2 * size : 3 * size])
            loss = self._loss.generator(real_scores, fake_scores)
        gradients = tape.gradient(loss, self._generator_adam.weights)
        self._generator_adam.apply(gradients, AdamNumbers(*tf.unstack(batch.numbers[:5])))
        return {"generator_loss": loss, "generator_gradient_norm": _norm_if(batch.noting, gradients)}

    def _with_labels(self, latents: tf.Tensor, one_hot: tf.Tensor) -> tf.Tensor:
        if not self._spec.conditional:
            return latents
        return tf.concat([latents, self._settings.label_scale * one_hot], 1)

    def _score(self, images: tf.Tensor, one_hot: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
        """(N, H, W, C) -> (N,): the score for the image's own label."""
        scores = self._discriminator(images, training=True, masks=self._discriminator.dropout_masks(bits))
        return tf.reduce_sum(scores * one_hot, 1) if self._spec.conditional else scores[:, 0]

    def _draw(self, latents: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        one_hot = tf.one_hot(labels, self._spec.num_classes)
        return self._average(self._with_labels(latents, one_hot), training=False)

    # -- what the loop asks for --------------------------------------------------------------------------------

    def announce(self, indices: Indices) -> None:
        """See loop.Backend. Nothing is read ahead here."""

    def figures(self) -> Rows:
        """See loop.Backend."""
        return np.stack([np.asarray(row) for row in self._rows])

    def sample(self, latents: Latents, labels: Labels | None) -> Images:
        """See loop.Backend."""
        classes = np.zeros(len(latents), np.int64) if labels is None else labels
        self._catch_up()
        return quantise(self._sampling(tf.constant(latents), tf.constant(classes)).numpy())

    def average(self) -> Weights:
        """See loop.Backend."""
        self._catch_up()
        return self._average.get_weights()

    def state(self) -> Tensors:
        """See loop.Backend."""
        self._catch_up()
        tensors: Tensors = {"figures": self.figures()}
        for prefix, network in self._networks().items():
            tensors |= {f"{prefix}.{name}": value for name, value in network.get_weights().items()}
        for prefix, network, moments in self._moments():
            for name, variable in moments.items():
                tensors[f"{prefix}.{name}"] = network.to_canonical(name, variable.numpy())
        return tensors

    def restore(self, tensors: Tensors, step: int) -> None:  # noqa: ARG002 - Adam counts by the step's number
        """See loop.Backend."""
        self._rows = list(tensors["figures"])
        self._average_is_behind = False
        for prefix, network in self._networks().items():
            network.set_weights({name: tensors[f"{prefix}.{name}"] for name in network.names()})
        for prefix, network, moments in self._moments():
            for name, variable in moments.items():
                variable.assign(network.from_canonical(name, tensors[f"{prefix}.{name}"]))

    def _catch_up(self) -> None:
        """Where nothing is averaged, the generator is copied when somebody looks, not at every step."""
        if self._average_is_behind:
            self._average.set_weights(self._generator.get_weights())
            self._average_is_behind = False

    def _networks(self) -> dict[str, Network]:
        return {"generator": self._generator, "discriminator": self._discriminator, "average": self._average}

    def _moments(self) -> list[tuple[str, Network, dict[str, tf.Variable]]]:
        generator, discriminator = self._generator_adam, self._discriminator_adam
        return [
            ("generator_adam.first", self._generator, generator.first),
            ("generator_adam.second", self._generator, generator.second),
            ("discriminator_adam.first", self._discriminator, discriminator.first),
            ("discriminator_adam.second", self._discriminator, discriminator.second),
        ]


def _norm_if(noting: tf.Tensor, gradients: list[tf.Tensor]) -> tf.Tensor:
    return tf.cond(noting, lambda: gradient_norm(gradients), lambda: tf.constant(ABSENT))
