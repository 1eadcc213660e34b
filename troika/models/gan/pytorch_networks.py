"""Networks of layers.py as PyTorch modules. Images are float (N, C, H, W) in -1..1 here, labels int64 (N,)."""

from typing import assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from troika.models.gan import layers as plan
from troika.models.gan.layers import BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM, SLOPE, Layer, Layers, Weights

Bits = NDArray[np.uint16]


class Generator(nn.Module):
    """latents (N, latent_size), labels (N,) or None -> images (N, C, H, W) in -1..1."""

    def __init__(self, layers: Layers, num_classes: int, label_scale: float) -> None:
        super().__init__()
        self.body = build(layers)
        self.label_scale = label_scale
        self.register_buffer("classes", torch.arange(num_classes), persistent=False)
        self.classes: Tensor

    def forward(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Shapes: see the class."""
        if labels is not None:
            one_hot = (labels[:, None] == self.classes).to(latents.dtype)
            latents = torch.cat([latents, self.label_scale * one_hot], dim=1)
        images: Tensor = self.body(latents)
        return images


class Discriminator(nn.Module):
    """images (N, C, H, W), labels (N,) or None -> scores (N,); high means real."""

    def __init__(self, layers: Layers, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.body = build(layers)
        height, width, channels = image_shape
        self.dropout_widths = plan.dropout_widths(layers, (channels, height, width))
        self._dropouts = [layer for layer in self.body if isinstance(layer, Dropout)]

    def forward(self, images: Tensor, labels: Tensor | None, bits: Bits | None = None) -> Tensor:
        """Shapes: see the class. `bits` (N, all dropout widths) decide what is dropped; None: PyTorch does."""
        start = 0
        for layer, width in zip(self._dropouts, self.dropout_widths, strict=True):
            layer.bits = None if bits is None else bits[:, start : start + width]
            start += width
        scores: Tensor = self.body(images).float()
        if labels is None:
            return scores.squeeze(1)
        return scores.gather(1, labels[:, None]).squeeze(1)


class Dropout(nn.Module):
    """While training, 0 with probability `rate`, else 1 / (1 - rate) times the value."""

    bits: Bits | None = None
    """Random uint16 of the input's shape that decide; the rate is rounded to 1/65536."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, inputs: Tensor) -> Tensor:
        """Any shape."""
        if self.bits is None or not self.training:
            return nn.functional.dropout(inputs, self.rate, self.training)
        kept = torch.from_numpy(self.bits >= round(self.rate * 65536)).to(inputs.dtype)
        return inputs * kept.div_(1 - self.rate)


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.body = build(layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """Any shape that the layers keep."""
        outputs: Tensor = inputs + self.body(inputs)
        return outputs


def build(layers: Layers) -> nn.Sequential:
    """Modules of these layers, weights as PyTorch draws them."""
    return nn.Sequential(*[_module(layer) for layer in layers])


def _module(layer: Layer) -> nn.Module:  # noqa: PLR0911 - one for each kind of layer
    match layer:
        case plan.Linear():
            return nn.Linear(layer.inputs, layer.outputs, bias=layer.bias)
        case plan.Convolution():
            return nn.Conv2d(
                layer.inputs,
                layer.outputs,
                layer.kernel,
                stride=layer.stride,
                padding=layer.padding,
                groups=layer.groups,
                bias=layer.bias,
            )
        case plan.TransposedConvolution():
            return nn.ConvTranspose2d(
                layer.inputs,
                layer.outputs,
                layer.kernel,
                stride=layer.stride,
                padding=layer.padding,
                bias=layer.bias,
            )
        case plan.BatchNorm():
            kind = nn.BatchNorm2d if layer.images else nn.BatchNorm1d
            return kind(layer.features, eps=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM)
        case plan.LeakyReLU():
            return nn.LeakyReLU(SLOPE)
        case plan.ReLU():
            return nn.ReLU()
        case plan.Tanh():
            return nn.Tanh()
        case plan.Dropout():
            return Dropout(layer.rate)
        case plan.Flatten():
            return nn.Flatten()
        case plan.Unflatten():
            # Not view(len(x), ...): that would freeze the batch size in the exported graph.
            return nn.Unflatten(1, layer.shape)
        case plan.Residual():
            return Residual(layer.layers)
        case _:
            assert_never(layer)


@torch.no_grad()
def put_weights(network: nn.Module, weights: Weights) -> None:
    """Copy weights by name into the network.

    Raises:
        KeyError: one is missing.
    """
    for name, value in named_tensors(network).items():
        value.copy_(torch.from_numpy(weights[name].copy()))


def get_weights(network: nn.Module) -> Weights:
    """The network's weights by name, as arrays of their own."""
    return {
        name: value.detach().cpu().contiguous().numpy().copy() for name, value in named_tensors(network).items()
    }


def named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and running statistics, under the names of layers.py."""
    return {
        name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")
    }
