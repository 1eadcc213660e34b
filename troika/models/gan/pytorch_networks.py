"""Networks of layers.py as PyTorch modules. Images are float (N, C, H, W) in -1..1 here, labels int64 (N,)."""

from typing import assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from troika.models.gan import layers as plan
from troika.models.gan.layers import BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM, SLOPE, Layer, Layers, Weights
from troika.models.gan.pytorch_convolution import Convolution

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
        self._image_shape = channels, height, width
        self.dropout_widths = plan.dropout_widths(layers, self._image_shape)
        self._dropouts = [layer for layer in self.body if isinstance(layer, Dropout)]
        self._first = next(n for n, layer in enumerate(self.body) if isinstance(layer, nn.Linear | nn.Conv2d))
        self._first_outputs: Tensor | None = None
        self._convolutions = [layer for layer in self.modules() if isinstance(layer, Convolution)]

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None,
        bits: Bits | None = None,
        *,
        penalised: bool = False,
        keep_first: bool = False,
    ) -> Tensor:
        """Shapes: see the class.

        Args:
            images: in -1..1.
            labels: None where it is unconditional.
            bits: (N, all dropout widths) decide what is dropped; None: PyTorch does.
            penalised: the gradient at the images will be differentiated again.
            keep_first: for `take_first_outputs`.
        """
        for convolution in self._convolutions:
            convolution.twice = penalised and images.is_cuda
        start = 0
        for dropout, width in zip(self._dropouts, self.dropout_widths, strict=True):
            dropout.bits = None if bits is None else bits[:, start : start + width]
            start += width
        x = images
        for number, layer in enumerate(self.body):
            x = layer(x)
            if keep_first and number == self._first:
                self._first_outputs = x
        scores = x.float()
        if labels is None:
            return scores.squeeze(1)
        return scores.gather(1, labels[:, None]).squeeze(1)

    def take_first_outputs(self) -> Tensor:
        """Those of the first layer with weights (N, ...), of the last pass, which was to keep them."""
        outputs, self._first_outputs = self._first_outputs, None
        assert outputs is not None  # noqa: S101 - a pass that kept them comes first
        return outputs

    @torch.no_grad()
    def slopes_at_images(self, slopes: Tensor) -> Tensor:
        """The gradient at the images (N, C, H, W) from that at the first layer's outputs (N, ...)."""
        layer, shape = self.body[self._first], (len(slopes), *self._image_shape)
        if isinstance(layer, nn.Linear):
            return (slopes @ layer.weight.to(slopes.dtype)).view(shape)
        weight = layer.weight.to(slopes.dtype)
        at_images: Tensor = conv2d_input(  # type: ignore[no-untyped-call]
            shape, weight, slopes, layer.stride, layer.padding, groups=layer.groups
        )
        return at_images


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
            return Convolution(
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
