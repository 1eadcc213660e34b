"""The article's GAN as its TensorFlow program has it: what both backends' training loops are measured against.

Fully connected networks for 28x28 images, binary cross-entropy, Adam (2e-4, beta1 0.5), batches of 128 from
tf.data, one tf.function per step, both gradients from one pass. Nothing of it is tuned, and nothing is Troika's.
"""

from typing import Any

import numpy as np
import tensorflow as tf
from keras import Sequential, layers, losses, optimizers

NOISE, BATCH = 100, 128


def make_generator() -> Any:
    """100 -> 256 -> 512 -> 1024 -> 28x28."""
    model = Sequential([layers.Input((NOISE,))])
    for width in (256, 512, 1024):
        model.add(layers.Dense(width, use_bias=False))
        model.add(layers.BatchNormalization())
        model.add(layers.LeakyReLU(0.2))
    model.add(layers.Dense(28 * 28, activation="tanh"))
    model.add(layers.Reshape((28, 28, 1)))
    return model


def make_discriminator() -> Any:
    """28x28 -> 1024 -> 512 -> 1."""
    model = Sequential([layers.Input((28, 28, 1)), layers.Flatten()])
    for width in (1024, 512):
        model.add(layers.Dense(width))
        model.add(layers.LeakyReLU(0.2))
        model.add(layers.Dropout(0.3))
    model.add(layers.Dense(1))
    return model


class ArticleProgram:
    """The program's objects; `steps` is the body of its loop over epochs."""

    def __init__(self, images: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        scaled = (images.astype("float32") - 127.5) / 127.5
        data = tf.data.Dataset.from_tensor_slices(scaled).shuffle(len(images)).batch(BATCH, drop_remainder=True)
        self._batches = iter(data.repeat())
        self._generator, self._discriminator = make_generator(), make_discriminator()
        self._generator_optimizer = optimizers.Adam(2e-4, beta_1=0.5)
        self._discriminator_optimizer = optimizers.Adam(2e-4, beta_1=0.5)
        self._cross_entropy = losses.BinaryCrossentropy(from_logits=True)

    def steps(self, count: int) -> None:
        """Train on `count` batches."""
        for _ in range(count):
            self._train_step(next(self._batches))

    @tf.function  # type: ignore[untyped-decorator]
    def _train_step(self, images: Any) -> None:
        noise = tf.random.normal([BATCH, NOISE])
        with tf.GradientTape() as generator_tape, tf.GradientTape() as discriminator_tape:
            generated = self._generator(noise, training=True)
            real_output = self._discriminator(images, training=True)
            fake_output = self._discriminator(generated, training=True)
            generator_loss = self._cross_entropy(tf.ones_like(fake_output), fake_output)
            discriminator_loss = self._cross_entropy(tf.ones_like(real_output), real_output) + self._cross_entropy(
                tf.zeros_like(fake_output), fake_output
            )
        generator, discriminator = self._generator.trainable_variables, self._discriminator.trainable_variables
        self._generator_optimizer.apply_gradients(
            zip(generator_tape.gradient(generator_loss, generator), generator, strict=True)
        )
        self._discriminator_optimizer.apply_gradients(
            zip(discriminator_tape.gradient(discriminator_loss, discriminator), discriminator, strict=True)
        )
