"""What a GAN preset consists of. Knows no framework; defaults stand in params.yaml."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from troika.params import Params

Width = Annotated[int, Field(ge=1, le=65536)]
LossName = Literal["relativistic", "non_saturating", "hinge", "least_squares", "wasserstein"]
UpdatesName = Literal["alternating", "simultaneous"]
PenaltyName = Literal["none", "r1", "r2", "r1_r2", "wgan_gp"]


class ConvolutionalNetwork(Params):
    """Strided convolutions without normalisation, 4x4 or 7x7 at the coarsest (networks.py)."""

    kind: Literal["convolutional"]
    channels: int = Field(ge=1, le=4096)
    """Feature maps at full resolution; they double with every halving of the resolution ..."""
    max_channels: int = Field(ge=1, le=4096)
    """... up to this many."""
    hidden_size: Width
    """Width of the layer between latent and feature maps, and of that between feature maps and score."""
    residual_blocks: int = Field(ge=0, le=8)
    """Residual blocks at each resolution, in both networks; 0 is many times faster without a GPU."""
    dropout: float = Field(ge=0, lt=1)
    """Of the discriminator, before each of its fully connected layers."""


class DCGANNetwork(Params):
    """The classic of arXiv 1511.06434: strided convolutions with batch normalisation in both networks."""

    kind: Literal["dcgan"]
    channels: int = Field(ge=1, le=4096)
    """Feature maps at half the full resolution; they double with every further halving ..."""
    max_channels: int = Field(ge=1, le=4096)
    """... up to this many."""


class MLPNetwork(Params):
    """Fully connected layers; the generator's with batch normalisation, the discriminator's with dropout."""

    kind: Literal["mlp"]
    generator_widths: list[Width]
    discriminator_widths: list[Width]
    dropout: float = Field(ge=0, lt=1)


class GANSettings(Params):
    """Network, loss, regularisation and optimiser of a GAN, and when its training ends early."""

    network: Annotated[ConvolutionalNetwork | DCGANNetwork | MLPNetwork, Field(discriminator="kind")]
    conditional: bool
    """Whether the label is an input of the generator and selects the discriminator's output."""
    latent_size: int = Field(ge=1, le=4096)
    label_scale: float = Field(gt=0, le=100)
    """The 1 of the one-hot label beside the latent; larger than a latent's usual size, to be heard."""

    loss: LossName
    updates: UpdatesName
    """alternating: the generator learns from the discriminator as this step has improved it; simultaneous: from
    the one before, in whose pass its gradient is found as well, which saves a pass."""
    penalty: PenaltyName
    """Gradient penalty on the discriminator: at real images (r1), generated ones (r2), or between (wgan_gp)."""
    penalty_gamma_start: float = Field(ge=0)
    """Weight of the gradient penalty at the first step, moving on a cosine ..."""
    penalty_gamma_end: float = Field(ge=0)
    """... to this at the last."""
    penalty_every: int = Field(ge=1)
    """The penalty is added at every k-th step only, k times as strong."""
    l2: float = Field(ge=0)
    """L2 regularisation: this times a weight is added to its gradient, in both networks."""

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

    early_stop_patience: int = Field(ge=0)
    """Ticks without a better figure on validation images after which training ends and the best weights are
    kept; 0: never."""
    variety_below: float = Field(ge=0, lt=1)
    """Collapse: samples differ by less than this share of what real images differ by; 0: not looked at."""
    discriminator_loss_below: float = Field(ge=0)
    """Saturation: the discriminator's loss stays below this; 0: not looked at."""

    @model_validator(mode="after")
    def _combinations_that_make_sense(self) -> "GANSettings":
        if self.network.kind == "dcgan" and self.penalty != "none":
            raise ValueError(
                "penalty: must be none with network kind dcgan: its batch normalisation makes a score depend on "
                "the other images of the batch, so that no gradient belongs to one image"
            )
        if self.updates == "simultaneous":
            self._check_simultaneous()
        if self.penalty == "none" and (self.penalty_gamma_start or self.penalty_gamma_end):
            raise ValueError("penalty_gamma_start and penalty_gamma_end: must be 0 where penalty is none")
        return self

    def _check_simultaneous(self) -> None:
        """One pass gives both gradients only if each image has a score and a slope of its own."""
        if self.network.kind == "dcgan":
            raise ValueError(
                "updates: must be alternating with network kind dcgan: its batch normalisation makes a score "
                "depend on the other images of the batch"
            )
        if self.penalty != "none":
            raise ValueError("updates: must be alternating where there is a penalty")
        if self.loss not in ("non_saturating", "relativistic"):
            why = "needs a penalty" if self.loss == "wasserstein" else "can have a slope of 0 at a generated image"
            raise ValueError(
                f"updates: must be alternating with loss {self.loss}, which {why}; simultaneous goes with "
                "non_saturating or relativistic"
            )
