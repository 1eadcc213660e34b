"""A network's layers (layers.py) as a Keras model, with PyTorch's names and shapes of weights at the edges.

Images are (N, H, W, C) inside, which TensorFlow is fast at; flattening still goes channel by channel, so that the
same weights give the same network as in PyTorch.
"""

from collections.abc import Iterator, Sequence
from math import prod

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from troika.models.gan.layers import (
    BATCH_NORM_EPSILON,
    BATCH_NORM_MOMENTUM,
    SLOPE,
    BatchNorm,
    Convolution,
    Dropout,
    Flatten,
    Layer,
    Layers,
    LeakyReLU,
    Linear,
    ReLU,
    Residual,
    Tanh,
    TransposedConvolution,
    Unflatten,
    Weights,
)

_AXES: dict[type[Layer], tuple[int, ...]] = {
    Linear: (1, 0),  # (inputs, outputs)
    Convolution: (2, 3, 1, 0),  # (kernel, kernel, inputs, outputs)
    TransposedConvolution: (2, 3, 1, 0),  # (kernel, kernel, outputs, inputs)
}
"""For each of Keras's axes of a kernel, which one of PyTorch's it is."""


class Network:
    """A Keras model that knows its variables by PyTorch's names.

    Its inputs are the features or images and, for every Dropout, a mask of factors: random numbers come from
    outside, since those of XLA on a CPU take longer than the network.
    """

    def __init__(self, layers: Layers, input_shape: tuple[int, ...], dtype: str = "float32") -> None:
        """Build with Keras's own first weights; `set_weights` gives others.

        Args:
            layers: the plan.
            input_shape: of one input: (features,) or (H, W, C).
            dtype: a Keras policy, such as mixed_bfloat16. Outputs and weights are float32 anyway.
        """
        self.input_shape = input_shape
        self._built: list[tuple[str, Layer, keras.layers.Layer]] = []
        self._masks: list[keras.KerasTensor] = []
        self.dropouts: list[tuple[float, tuple[int, ...]]] = []
        """Rate, and shape of one input's mask, of every Dropout."""
        inputs = keras.Input(input_shape)
        outputs = self._apply(layers, inputs, "body.", dtype)
        self._model = keras.Model([inputs, *self._masks], outputs)
        self._variables = dict(self._named_variables())
        self.trained: dict[str, keras.Variable] = {
            name: variable for name, (variable, _) in self._variables.items() if variable.trainable
        }
        """Weights that an optimiser changes; the others are running statistics."""

    def __call__(self, inputs: tf.Tensor, *, training: bool, masks: Sequence[tf.Tensor] = ()) -> tf.Tensor:
        """float32 outputs. `training` normalises by the batch and updates running statistics.

        Args:
            inputs: (N, features) or (N, H, W, C).
            training: see above; dropout depends on `masks` alone.
            masks: as `dropout_masks` makes them; none: nothing is dropped.
        """
        if not masks:
            masks = [tf.ones((tf.shape(inputs)[0], *shape)) for _, shape in self.dropouts]
        return tf.cast(self._model([inputs, *masks], training=training), tf.float32)

    def dropout_masks(self, bits: tf.Tensor) -> list[tf.Tensor]:
        """Masks from random uint16 (N, values of all masks of one input); rates are rounded to 1/65536."""
        masks, start = [], 0
        for rate, shape in self.dropouts:
            end = start + prod(shape)
            kept = bits[:, start:end] >= tf.constant(round(rate * 65536), tf.uint16)
            masks.append(tf.reshape(tf.cast(kept, tf.float32) / (1 - rate), (-1, *shape)))
            start = end
        return masks

    def names(self) -> list[str]:
        """Of all weights."""
        return list(self._variables)

    def get_weights(self) -> Weights:
        """All weights by PyTorch's names, in its shapes."""
        return {name: self.to_canonical(name, variable.numpy()) for name, (variable, _) in self._variables.items()}

    def set_weights(self, weights: Weights) -> None:
        """Take over what `get_weights` of a network of the same plan gave, in either framework.

        Raises:
            ValueError: names or shapes are not those of this network.
        """
        if weights.keys() != self._variables.keys():
            raise ValueError(f"weights {sorted(weights.keys() ^ self._variables.keys())} are missing or unknown")
        for name, (variable, axes) in self._variables.items():
            variable.assign(weights[name].transpose(axes) if axes else weights[name])

    def follow(self, other: "Network", decay: tf.Tensor) -> None:
        """Move towards another network of the same plan, keeping the share `decay`; as part of a graph."""
        for name, (variable, _) in self._variables.items():
            new = other._variables[name][0]
            # Running statistics are averages already.
            variable.assign(new + decay * (variable - new) if variable.trainable else new)

    def to_canonical(self, name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """An array of the variable's shape with PyTorch's axes: weights, or an optimiser's averages."""
        axes = self._variables[name][1]
        return np.ascontiguousarray(array.transpose(np.argsort(axes)) if axes else array)

    def from_canonical(self, name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """The inverse of `to_canonical`."""
        axes = self._variables[name][1]
        return np.ascontiguousarray(array.transpose(axes) if axes else array)

    def _named_variables(self) -> Iterator[tuple[str, tuple[keras.Variable, tuple[int, ...]]]]:
        for prefix, plan, layer in self._built:
            match plan:
                case Linear() | Convolution() | TransposedConvolution():
                    yield f"{prefix}weight", (layer.kernel, _AXES[type(plan)])
                    if plan.bias:
                        yield f"{prefix}bias", (layer.bias, ())
                case BatchNorm():
                    yield f"{prefix}weight", (layer.gamma, ())
                    yield f"{prefix}bias", (layer.beta, ())
                    yield f"{prefix}running_mean", (layer.moving_mean, ())
                    yield f"{prefix}running_var", (layer.moving_variance, ())

    def _apply(self, layers: Layers, x: keras.KerasTensor, prefix: str, dtype: str) -> keras.KerasTensor:
        for index, plan in enumerate(layers):
            match plan:
                case Residual():
                    inner = self._apply(plan.layers, x, f"{prefix}{index}.body.", dtype)
                    x = keras.layers.Add(dtype=dtype)([x, inner])
                case Dropout():
                    self.dropouts.append((plan.rate, tuple(x.shape[1:])))
                    self._masks.append(keras.Input(x.shape[1:]))
                    x = keras.layers.Multiply(dtype=dtype)([x, self._masks[-1]])
                case _:
                    for layer in _layers(plan, dtype):
                        x = layer(x)
                    self._built.append((f"{prefix}{index}.", plan, layer))
        return x


class BatchNormalization(keras.layers.Layer):  # type: ignore[misc]
    """As PyTorch's: the running variance is the unbiased one, which Keras's own layer does not keep."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the variables, (C,) each."""
        features = (input_shape[-1],)
        self.gamma = self.add_weight(features, "ones", "float32", autocast=False, name="gamma")
        self.beta = self.add_weight(features, "zeros", "float32", autocast=False, name="beta")
        self.moving_mean = self.add_weight(
            features, "zeros", "float32", trainable=False, autocast=False, name="moving_mean"
        )
        self.moving_variance = self.add_weight(
            features, "ones", "float32", trainable=False, autocast=False, name="moving_variance"
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """(N, ..., C), normalised for each channel."""
        x = tf.cast(inputs, tf.float32)
        if training:
            mean, variance = tf.nn.moments(x, list(range(len(x.shape) - 1)))
            count = tf.cast(tf.size(x) / tf.size(mean), tf.float32)
            for running, found in (
                (self.moving_mean, mean),
                (self.moving_variance, variance * count / (count - 1)),
            ):
                running.assign(running + BATCH_NORM_MOMENTUM * (found - running))
        else:
            mean, variance = tf.convert_to_tensor(self.moving_mean), tf.convert_to_tensor(self.moving_variance)
        scale = self.gamma * tf.math.rsqrt(variance + BATCH_NORM_EPSILON)
        return tf.cast(x * scale + (self.beta - mean * scale), self.compute_dtype)


class GroupedConvolution(keras.layers.Conv2D):  # type: ignore[misc]
    """Group by group: Keras's own way has no gradient on a CPU without XLA, and no ONNX form."""

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """(N, H, W, C) and (K, K, C / groups, outputs)."""
        pairs = zip(tf.split(inputs, self.groups, 3), tf.split(kernel, self.groups, 3), strict=True)
        padding = self.padding.upper()
        return tf.concat([tf.nn.conv2d(part, own, self.strides, padding) for part, own in pairs], 3)


def _layers(plan: Layer, dtype: str) -> list[keras.layers.Layer]:
    """What `plan` consists of in Keras; the last one has the weights, if there are any."""
    layers = keras.layers
    match plan:
        case Linear():
            built = [layers.Dense(plan.outputs, use_bias=plan.bias, dtype=dtype)]
        case Convolution():
            padding, before = _padding(plan)
            kind = layers.Conv2D if plan.groups == 1 else GroupedConvolution
            extra = {} if plan.groups == 1 else {"groups": plan.groups}
            sizes = (plan.outputs, plan.kernel, plan.stride, padding)
            built = [*before, kind(*sizes, use_bias=plan.bias, dtype=dtype, **extra)]
        case TransposedConvolution():
            padding, before = _padding(plan)
            if before:
                raise NotImplementedError(f"{plan}: no such padding in Keras")
            sizes = (plan.outputs, plan.kernel, plan.stride, padding)
            built = [layers.Conv2DTranspose(*sizes, use_bias=plan.bias, dtype=dtype)]
        case BatchNorm():
            built = [BatchNormalization(dtype=dtype)]
        case LeakyReLU():
            built = [layers.LeakyReLU(SLOPE, dtype=dtype)]
        case ReLU():
            built = [layers.ReLU(dtype=dtype)]
        case Tanh():
            built = [layers.Activation("tanh", dtype=dtype)]
        case Flatten():
            built = [layers.Permute((3, 1, 2), dtype=dtype), layers.Flatten(dtype=dtype)]
        case Unflatten():
            built = [layers.Reshape(plan.shape, dtype=dtype), layers.Permute((2, 3, 1), dtype=dtype)]
        case _:
            raise TypeError(f"{plan} is not one layer of its own")
    return built


def _padding(plan: Convolution | TransposedConvolution) -> tuple[str, list[keras.layers.Layer]]:
    """Keras's word for this padding of an input whose edge the stride divides, and a layer for what it lacks."""
    if plan.padding == 0:
        return "valid", []
    if 2 * plan.padding == plan.kernel - plan.stride:
        return "same", []
    return "valid", [keras.layers.ZeroPadding2D(plan.padding)]
