"""What a GAN preset consists of. Knows no framework; defaults stand in params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from troika.params import Params

Width = Annotated[int, Field(ge=1, le=65536)]


class ConvolutionalNetwork(Params):
    """Strided convolutions without normalisation, 4x4 or 7x7 at the coarsest (networks.py)."""

    kind: Literal["convolutional"]
    channels: int = Field(ge=1, le=4096)
    """Feature maps at full resolution; they double with every halving of the resolution ..."""
    max_channels: int = Field(ge=1, le=4096)
    """... up to this many."""
    hidden_size: Width
    """Width of the layer between latent and feature maps, and of that between feature maps and score."""


class MLPNetwork(Params):
    """Fully connected layers; the generator's with batch normalisation, the discriminator's with dropout."""

    kind: Literal["mlp"]
    generator_widths: list[Width]
    discriminator_widths: list[Width]
    dropout: float = Field(ge=0, lt=1)


class GANSettings(Params):
    """Network, loss and optimiser of a GAN."""

    network: Annotated[ConvolutionalNetwork | MLPNetwork, Field(discriminator="kind")]
    conditional: bool
    """Whether the label is an input of the generator and selects the discriminator's output."""
    latent_size: int = Field(ge=1, le=4096)
    label_scale: float = Field(gt=0, le=100)
    """The 1 of the one-hot label beside the latent; larger than a latent's usual size, to be heard."""

    loss: Literal["relativistic", "non_saturating"]
    penalty_gamma_start: float = Field(ge=0)
    """Weight of the R1 and R2 gradient penalties at the first step, falling on a cosine ..."""
    penalty_gamma_end: float = Field(ge=0)
    """... to this at the last. Both 0: no penalty."""
    penalty_every: int = Field(ge=1)
    """The penalties are added at every k-th step only, k times as strong."""

    learning_rate_start: float = Field(gt=0, le=1)
    """Adam's learning rate at the first step, for both networks, moving on a cosine ..."""
    learning_rate_end: float = Field(gt=0, le=1)
    """... to this at the last."""
    beta1: float = Field(ge=0, lt=1)
    beta2_start: float = Field(ge=0, lt=1)
    beta2_end: float = Field(ge=0, lt=1)

    ema_half_life_images: float = Field(ge=0)
    """Images after which a weight's part in the moving average has halved; 0: no averaging."""
    ema_ramp: float = Field(gt=0, le=1)
    """Early on, the half-life is at most this share of the images seen so far."""
