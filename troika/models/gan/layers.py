"""Networks as plain data: a tuple of layers that every framework builds, and what can be said without one.

Axes are those of PyTorch (N, C, H, W), and so are the names and shapes of weights: `body.3.weight` is the weight
of the fourth layer. Does not compute anything; pytorch_networks.py and tensorflow_networks.py do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

Weights = dict[str, NDArray[np.float32]]
SLOPE = 0.2  # of LeakyReLU below zero
BATCH_NORM_MOMENTUM = 0.1  # what one batch adds to the running statistics
BATCH_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Linear:
    """(N, inputs) -> (N, outputs). Weight (outputs, inputs)."""

    inputs: int
    outputs: int
    bias: bool = True
    scale: float = 1.0
    """On the standard deviation of the first weights; 0 makes a residual block start as the identity."""


@dataclass(frozen=True)
class Convolution:
    """(N, inputs, H, W) -> (N, outputs, H', W'). Weight (outputs, inputs / groups, kernel, kernel)."""

    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: bool = True
    scale: float = 1.0


@dataclass(frozen=True)
class TransposedConvolution:
    """(N, inputs, H, W) -> (N, outputs, H', W'). Weight (inputs, outputs, kernel, kernel)."""

    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0
    bias: bool = True
    scale: float = 1.0


@dataclass(frozen=True)
class BatchNorm:
    """Over the batch and, for images, height and width. Weight, bias and two running statistics (features,)."""

    features: int
    images: bool
    """Whether the input is (N, C, H, W), not (N, C)."""


@dataclass(frozen=True)
class LeakyReLU:
    """x where positive, SLOPE x elsewhere."""


@dataclass(frozen=True)
class ReLU:
    """x where positive, 0 elsewhere."""


@dataclass(frozen=True)
class Tanh:
    """To -1..1."""


@dataclass(frozen=True)
class Dropout:
    """While training, 0 with probability `rate`, else 1 / (1 - rate) times the value."""

    rate: float


@dataclass(frozen=True)
class Flatten:
    """(N, C, H, W) -> (N, C H W)."""


@dataclass(frozen=True)
class Unflatten:
    """(N, C H W) -> (N, C, H, W)."""

    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Residual:
    """x + layers(x). The names of its weights go on with `.body.`: `body.5.body.1.weight`."""

    layers: "tuple[Layer, ...]"


Layer = (
    Linear
    | Convolution
    | TransposedConvolution
    | BatchNorm
    | LeakyReLU
    | ReLU
    | Tanh
    | Dropout
    | Flatten
    | Unflatten
    | Residual
)
Layers = tuple[Layer, ...]
_Weighted = Linear | Convolution | TransposedConvolution


def named_layers(layers: Layers, prefix: str = "body.") -> Iterator[tuple[str, Layer]]:
    """Every layer with the prefix of its weights' names, such as `body.3.`; a residual one's content too."""
    for index, layer in enumerate(layers):
        yield f"{prefix}{index}.", layer
        if isinstance(layer, Residual):
            yield from named_layers(layer.layers, f"{prefix}{index}.body.")


def draw_weights(layers: Layers, seed: int) -> Weights:
    """First weights by name, float32: He's normal distribution (arXiv 1502.01852), biases 0.

    They depend on the seed alone, so every framework starts from the same ones. BatchNorm's running statistics
    are among them.
    """
    random = np.random.default_rng(seed)
    weights: Weights = {}
    for prefix, layer in named_layers(layers):
        if isinstance(layer, _Weighted):
            shape, fan_in = _weight_shape(layer)
            deviation = layer.scale * (2 / (1 + SLOPE**2) / fan_in) ** 0.5
            weights[f"{prefix}weight"] = random.standard_normal(shape, np.float32) * np.float32(deviation)
            if layer.bias:
                weights[f"{prefix}bias"] = np.zeros(layer.outputs, np.float32)
        elif isinstance(layer, BatchNorm):
            for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
                weights[prefix + name] = np.full(layer.features, value, np.float32)
    return weights


def _weight_shape(layer: _Weighted) -> tuple[tuple[int, ...], float]:
    """Shape, and how many inputs one output sees."""
    match layer:
        case Linear():
            return (layer.outputs, layer.inputs), layer.inputs
        case Convolution():
            inputs = layer.inputs // layer.groups
            return (layer.outputs, inputs, layer.kernel, layer.kernel), inputs * layer.kernel**2
        case TransposedConvolution():
            # Of a 4x4 kernel with stride 2 every output sees 2x2 weights of each input channel.
            seen = layer.inputs * (layer.kernel / layer.stride) ** 2
            return (layer.inputs, layer.outputs, layer.kernel, layer.kernel), seen


def count_parameters(layers: Layers) -> int:
    """Trained numbers: weights and biases, no running statistics."""
    weights = draw_weights(layers, 0)
    return sum(value.size for name, value in weights.items() if "running_" not in name)


def output_shapes(layers: Layers, shape: tuple[int, ...]) -> Iterator[tuple[Layer, tuple[int, ...]]]:
    """Every layer with the shape of its output for one input of `shape`, the batch axis left out."""
    for layer in layers:
        match layer:
            case Linear():
                shape = (layer.outputs,)
            case Convolution():
                edge = (shape[1] + 2 * layer.padding - layer.kernel) // layer.stride + 1
                shape = (layer.outputs, edge, edge)
            case TransposedConvolution():
                edge = (shape[1] - 1) * layer.stride - 2 * layer.padding + layer.kernel
                shape = (layer.outputs, edge, edge)
            case Flatten():
                shape = (prod(shape),)
            case Unflatten():
                shape = layer.shape
            case Residual():
                yield from output_shapes(layer.layers, shape)
            case _:
                pass
        yield layer, shape


def dropout_widths(layers: Layers, shape: tuple[int, ...]) -> list[int]:
    """How many numbers each Dropout sees of one input."""
    return [prod(out) for layer, out in output_shapes(layers, shape) if isinstance(layer, Dropout)]


def count_activations(layers: Layers, shape: tuple[int, ...]) -> int:
    """Numbers that a forward pass of one input keeps for the backward pass, at most."""
    return sum(
        prod(out) for layer, out in output_shapes(layers, shape) if not isinstance(layer, Flatten | Unflatten)
    )


def count_multiplications(layers: Layers, shape: tuple[int, ...]) -> int:
    """Multiplications with weights in a forward pass of one input; a backward pass takes twice as many."""
    total, before = 0, shape
    for layer, out in output_shapes(layers, shape):
        match layer:
            case Linear():
                total += layer.inputs * layer.outputs
            case Convolution():
                total += prod(out) * (layer.inputs // layer.groups) * layer.kernel**2
            case TransposedConvolution():
                total += prod(before) * layer.outputs * layer.kernel**2
            case _:
                pass
        before = out
    return total
