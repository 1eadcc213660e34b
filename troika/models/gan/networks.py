"""Which layers a preset's generator and discriminator consist of, for images of a given shape.

The generator takes the latent and, when conditional, the one-hot label (times `label_scale`) behind it, and makes
images in -1..1. The discriminator gives one score, high for real; when conditional one per class, of which the
label picks its own: a projection discriminator (arXiv 1802.05637) without the shared term.

Source of the convolutional pair: "The GAN is dead; long live the GAN! A modern baseline GAN" (R3GAN,
arXiv 2501.05441) shows that its loss needs no normalisation layers; this is that idea at the size of small images.
Knows no framework.
"""

from itertools import pairwise

from troika.errors import ParameterError
from troika.models.contract import ModelSpec
from troika.models.gan.layers import (
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
)
from troika.models.gan.settings import ConvolutionalNetwork, DCGANNetwork, GANSettings, MLPNetwork

_GROUP = 16  # channels in a group of a residual block's 3x3 convolution
_Shape = tuple[int, int, int]


def plan_generator(settings: GANSettings, spec: ModelSpec) -> Layers:
    """(N, latent_size [+ classes]) -> images (N, C, H, W) in -1..1.

    Raises:
        ParameterError: this network cannot make images of this shape.
    """
    inputs = spec.latent_size + (spec.num_classes if spec.conditional else 0)
    match settings.network:
        case ConvolutionalNetwork() as network:
            return _convolutional_generator(network, inputs, spec.image_shape)
        case DCGANNetwork() as network:
            return _dcgan_generator(network, inputs, spec.image_shape)
        case MLPNetwork() as network:
            return _mlp_generator(network, inputs, spec.image_shape)


def plan_discriminator(settings: GANSettings, spec: ModelSpec) -> Layers:
    """Images (N, C, H, W) -> scores (N, classes), or (N, 1) of an unconditional model.

    Raises:
        ParameterError: this network cannot judge images of this shape.
    """
    outputs = spec.num_classes if spec.conditional else 1
    match settings.network:
        case ConvolutionalNetwork() as network:
            return _convolutional_discriminator(network, outputs, spec.image_shape)
        case DCGANNetwork() as network:
            return _dcgan_discriminator(network, outputs, spec.image_shape)
        case MLPNetwork() as network:
            return _mlp_discriminator(network, outputs, spec.image_shape)


def normalises_batches(layers: Layers) -> bool:
    """Whether an output depends on the other inputs of its batch."""
    return any(isinstance(layer, BatchNorm) for layer in layers)


def resolutions(image_shape: _Shape) -> list[int]:
    """Edge lengths from coarse to fine, such as [7, 14, 28].

    Raises:
        ParameterError: images are not square, or not of a size that doubling 4 or 7 reaches.
    """
    height, width, channels = image_shape
    sizes = [height]
    while sizes[0] > 7 and sizes[0] % 2 == 0:
        sizes.insert(0, sizes[0] // 2)
    if height != width or channels not in (1, 3) or sizes[0] not in (4, 7) or not 8 <= height <= 256:
        raise ParameterError(
            f"shape: the convolutional network cannot make images of {height}x{width} with {channels} "
            "channels; it makes square ones of 8, 14, 16, 28, 32, 56, 64, 112, 128, 224 or 256 pixels with "
            "1 or 3 channels"
        )
    return sizes


def _widths(channels: int, max_channels: int, levels: int) -> list[int]:
    """Feature maps at each resolution, coarse to fine."""
    return [min(channels << level, max_channels) for level in reversed(range(levels))]


def _convolutional_generator(network: ConvolutionalNetwork, inputs: int, image_shape: _Shape) -> Layers:
    sizes = resolutions(image_shape)
    widths = _widths(network.channels, network.max_channels, len(sizes))
    layers: list[Layer] = [
        Linear(inputs, network.hidden_size),
        LeakyReLU(),
        Linear(network.hidden_size, widths[0] * sizes[0] ** 2),
        Unflatten((widths[0], sizes[0], sizes[0])),
        *[_residual(widths[0])] * network.residual_blocks,
    ]
    for coarse, fine in pairwise(widths):
        layers += [LeakyReLU(), TransposedConvolution(coarse, fine, 4, stride=2, padding=1)]
        layers += [_residual(fine)] * network.residual_blocks
    layers += [LeakyReLU(), Convolution(widths[-1], image_shape[2], 3, padding=1), Tanh()]
    return tuple(layers)


def _convolutional_discriminator(network: ConvolutionalNetwork, outputs: int, image_shape: _Shape) -> Layers:
    sizes = resolutions(image_shape)
    widths = [image_shape[2], *reversed(_widths(network.channels, network.max_channels, len(sizes))[:-1])]
    layers: list[Layer] = []
    for fine, coarse in pairwise(widths):
        layers += [Convolution(fine, coarse, 4, stride=2, padding=1), LeakyReLU()]
        layers += [_residual(coarse)] * network.residual_blocks
    dropout = [Dropout(network.dropout)] if network.dropout else []
    layers += [
        Flatten(),
        *dropout,
        Linear(widths[-1] * sizes[0] ** 2, network.hidden_size),
        LeakyReLU(),
        *dropout,
        Linear(network.hidden_size, outputs),
    ]
    return tuple(layers)


def _residual(channels: int) -> Residual:
    """R3GAN's block: widen by a 1x1 convolution, look around by a grouped 3x3 one, narrow again.

    Its last weights begin at 0, so that it begins as the identity (Fixup, arXiv 1901.09321).
    """
    wide = 2 * channels
    groups = max(1, wide // _GROUP)
    while wide % groups:
        groups -= 1
    return Residual(
        (
            Convolution(channels, wide, 1),
            LeakyReLU(),
            Convolution(wide, wide, 3, padding=1, groups=groups),
            LeakyReLU(),
            Convolution(wide, channels, 1, scale=0.0),
        )
    )


def _dcgan_generator(network: DCGANNetwork, inputs: int, image_shape: _Shape) -> Layers:
    sizes = resolutions(image_shape)
    widths = _widths(network.channels, network.max_channels, len(sizes) - 1)
    layers: list[Layer] = [
        Unflatten((inputs, 1, 1)),
        TransposedConvolution(inputs, widths[0], sizes[0], bias=False),
        BatchNorm(widths[0], images=True),
        ReLU(),
    ]
    for coarse, fine in pairwise(widths):
        layers += [
            TransposedConvolution(coarse, fine, 4, stride=2, padding=1, bias=False),
            BatchNorm(fine, images=True),
            ReLU(),
        ]
    layers += [TransposedConvolution(widths[-1], image_shape[2], 4, stride=2, padding=1, bias=False), Tanh()]
    return tuple(layers)


def _dcgan_discriminator(network: DCGANNetwork, outputs: int, image_shape: _Shape) -> Layers:
    sizes = resolutions(image_shape)
    widths = [*reversed(_widths(network.channels, network.max_channels, len(sizes) - 1))]
    layers: list[Layer] = [
        Convolution(image_shape[2], widths[0], 4, stride=2, padding=1, bias=False),
        LeakyReLU(),
    ]
    for fine, coarse in pairwise(widths):
        layers += [
            Convolution(fine, coarse, 4, stride=2, padding=1, bias=False),
            BatchNorm(coarse, images=True),
            LeakyReLU(),
        ]
    layers += [Convolution(widths[-1], outputs, sizes[0], bias=False), Flatten()]
    return tuple(layers)


def _mlp_generator(network: MLPNetwork, inputs: int, image_shape: _Shape) -> Layers:
    height, width, channels = image_shape
    layers: list[Layer] = []
    for narrow, wide in pairwise([inputs, *network.generator_widths]):
        # Batch normalisation subtracts the mean, so that a bias before it would do nothing.
        layers += [Linear(narrow, wide, bias=False), BatchNorm(wide, images=False), LeakyReLU()]
    last = [inputs, *network.generator_widths][-1]
    layers += [Linear(last, height * width * channels), Tanh(), Unflatten((channels, height, width))]
    return tuple(layers)


def _mlp_discriminator(network: MLPNetwork, outputs: int, image_shape: _Shape) -> Layers:
    height, width, channels = image_shape
    layers: list[Layer] = [Flatten()]
    widths = [height * width * channels, *network.discriminator_widths]
    for wide, narrow in pairwise(widths):
        layers += [Linear(wide, narrow), LeakyReLU(), Dropout(network.dropout)]
    layers.append(Linear(widths[-1], outputs))
    return tuple(layers)
