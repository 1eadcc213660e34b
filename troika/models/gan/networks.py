"""Generators and discriminators. Images are float (N, C, H, W) in -1..1 here, labels one-hot (N, classes).

Source of the convolutional pair: "The GAN is dead; long live the GAN! A modern baseline GAN" (R3GAN,
arXiv 2501.05441) shows that its loss needs no normalisation layers; this is that idea at the size of small
images.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from troika.errors import ParameterError
from troika.models.contract import ModelSpec
from troika.models.gan.settings import ConvolutionalNetwork, GANSettings, MLPNetwork

SLOPE = 0.2  # of LeakyReLU below zero


class Generator(nn.Module):
    """latents (N, latent_size), labels (N,) or None -> images (N, C, H, W) in -1..1."""

    def __init__(self, body: nn.Sequential, num_classes: int, label_scale: float) -> None:
        super().__init__()
        self.body = body
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
    """images (N, C, H, W), labels (N,) or None -> scores (N,); high means real.

    With labels there is one output per class, and the label picks its own: a projection discriminator
    (arXiv 1802.05637) without the shared term.
    """

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Shapes: see the class."""
        scores: Tensor = self.body(images)
        if labels is None:
            return scores.squeeze(1)
        return scores.gather(1, labels[:, None]).squeeze(1)


def build_generator(settings: GANSettings, spec: ModelSpec) -> Generator:
    """The settings' generator, weights not yet drawn.

    Raises:
        ParameterError: this network cannot make images of this shape.
    """
    inputs = spec.latent_size + (spec.num_classes if spec.conditional else 0)
    match settings.network:
        case ConvolutionalNetwork() as network:
            body = _convolutional_generator(network, inputs, spec.image_shape)
        case MLPNetwork() as network:
            body = _mlp_generator(network, inputs, spec.image_shape)
    return Generator(body, spec.num_classes, settings.label_scale)


def build_discriminator(settings: GANSettings, spec: ModelSpec) -> Discriminator:
    """The settings' discriminator, weights not yet drawn.

    Raises:
        ParameterError: this network cannot judge images of this shape.
    """
    outputs = spec.num_classes if spec.conditional else 1
    match settings.network:
        case ConvolutionalNetwork() as network:
            return Discriminator(_convolutional_discriminator(network, outputs, spec.image_shape))
        case MLPNetwork() as network:
            return Discriminator(_mlp_discriminator(network, outputs, spec.image_shape))


def draw_weights(network: nn.Module) -> None:
    """Draw new weights from torch's random state: He's normal distribution (arXiv 1502.01852), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, SLOPE)
        elif isinstance(module, nn.ConvTranspose2d):
            # Of a 4x4 kernel with stride 2 every output sees 2x2 weights of each input channel.
            nn.init.normal_(module.weight, std=(2 / (1 + SLOPE**2) / (4 * module.in_channels)) ** 0.5)
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
            nn.init.zeros_(module.bias)


def resolutions(image_shape: tuple[int, int, int]) -> list[int]:
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


def _widths(network: ConvolutionalNetwork, levels: int) -> list[int]:
    return [min(network.channels << level, network.max_channels) for level in reversed(range(levels))]


def _convolutional_generator(
    network: ConvolutionalNetwork, inputs: int, image_shape: tuple[int, int, int]
) -> nn.Sequential:
    sizes = resolutions(image_shape)
    widths = _widths(network, len(sizes))
    layers: list[nn.Module] = [
        nn.Linear(inputs, network.hidden_size),
        nn.LeakyReLU(SLOPE),
        nn.Linear(network.hidden_size, widths[0] * sizes[0] ** 2),
        # Not view(len(x), ...): that would freeze the batch size in the exported graph.
        nn.Unflatten(1, (widths[0], sizes[0], sizes[0])),
    ]
    for coarse, fine in pairwise(widths):
        layers += [nn.LeakyReLU(SLOPE), nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1)]
    layers += [nn.LeakyReLU(SLOPE), nn.Conv2d(widths[-1], image_shape[2], 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers)


def _convolutional_discriminator(
    network: ConvolutionalNetwork, outputs: int, image_shape: tuple[int, int, int]
) -> nn.Sequential:
    sizes = resolutions(image_shape)
    widths = [image_shape[2], *reversed(_widths(network, len(sizes))[:-1])]
    layers: list[nn.Module] = []
    for fine, coarse in pairwise(widths):
        layers += [nn.Conv2d(fine, coarse, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
    layers += [
        nn.Flatten(),
        nn.Linear(widths[-1] * sizes[0] ** 2, network.hidden_size),
        nn.LeakyReLU(SLOPE),
        nn.Linear(network.hidden_size, outputs),
    ]
    return nn.Sequential(*layers)


def _mlp_generator(network: MLPNetwork, inputs: int, image_shape: tuple[int, int, int]) -> nn.Sequential:
    height, width, channels = image_shape
    layers: list[nn.Module] = []
    for narrow, wide in pairwise([inputs, *network.generator_widths]):
        # Batch normalisation subtracts the mean, so that a bias before it would do nothing.
        layers += [nn.Linear(narrow, wide, bias=False), nn.BatchNorm1d(wide), nn.LeakyReLU(SLOPE)]
    last = [inputs, *network.generator_widths][-1]
    layers += [
        nn.Linear(last, height * width * channels),
        nn.Tanh(),
        nn.Unflatten(1, (channels, height, width)),
    ]
    return nn.Sequential(*layers)


def _mlp_discriminator(network: MLPNetwork, outputs: int, image_shape: tuple[int, int, int]) -> nn.Sequential:
    height, width, channels = image_shape
    layers: list[nn.Module] = [nn.Flatten()]
    widths = [height * width * channels, *network.discriminator_widths]
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.LeakyReLU(SLOPE), nn.Dropout(network.dropout)]
    layers.append(nn.Linear(widths[-1], outputs))
    return nn.Sequential(*layers)
