"""Adam as PyTorch computes it, with all numbers given at every step: Keras's own cannot change its betas."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from troika.models.gan.schedules import Hyper

_EPSILON = 1e-8


class AdamNumbers(NamedTuple):
    """What one step of Adam depends on beside the gradients; numbers, or scalars of a graph."""

    learning_rate: float
    beta1: float
    beta2: float
    correction1: float
    """1 - beta1^t at step t = 1, 2, ..."""
    correction2: float

    @classmethod
    def of(cls, hyper: Hyper, count: int) -> "AdamNumbers":
        """Those of step `count` = 1, 2, ..."""
        corrections = 1 - hyper.beta1**count, 1 - hyper.beta2**count
        return cls(hyper.learning_rate, hyper.beta1, hyper.beta2, *corrections)


class Adam:
    """Adam (arXiv 1412.6980) for named variables, L2 regularisation (`l2` times the weight) in the gradient."""

    def __init__(self, trained: dict[str, keras.Variable], l2: float) -> None:
        self._l2 = l2
        self.weights: list[tf.Variable] = [variable.value for variable in trained.values()]
        self.first = {name: _zeros(variable) for name, variable in trained.items()}
        """Running averages of gradients ..."""
        self.second = {name: _zeros(variable) for name, variable in trained.items()}
        """... and of their squares."""

    def apply(self, gradients: Sequence[tf.Tensor], numbers: AdamNumbers) -> None:
        """Take one step along `gradients`, which are in the order of `weights`."""
        # PyTorch's rate / correction1 * first / (sqrt(second / correction2) + epsilon), with one division less.
        root = tf.sqrt(numbers.correction2)
        rate, epsilon = numbers.learning_rate * root / numbers.correction1, _EPSILON * root
        for weight, gradient, first, second in zip(
            self.weights, gradients, self.first.values(), self.second.values(), strict=True
        ):
            slope = gradient + self._l2 * weight if self._l2 else gradient
            first.assign(first + (1 - numbers.beta1) * (slope - first))
            second.assign(second * numbers.beta2 + (1 - numbers.beta2) * tf.square(slope))
            weight.assign_sub(rate * first / (tf.sqrt(second) + epsilon))


def gradient_norm(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """Euclidean length of all gradients together."""
    return tf.linalg.global_norm(gradients)


def _zeros(variable: keras.Variable) -> tf.Variable:
    return tf.Variable(tf.zeros_like(variable.value), trainable=False)
