"""Images in a second: a plain public-style DCGAN loop against Troika's, and how near that is to its passes alone.

    python -m benchmarks.dcgan_speed [--rounds 7] [--seconds 5] [--threads 2]

`plain` is the loop of public DCGAN tutorials with the network of the preset `dcgan`: a DataLoader that turns one
image after another into floats, float32 in PyTorch's default layout, two backward passes for the discriminator, a
discriminator that gathers gradients in the generator's step too, torch.optim.Adam, losses read at every step.
`r3gan` is the default preset; `r3gan, passes alone` does its forward and backward passes on the same batch again
and again: no data, optimiser, moving average or figures. 28 x 28 grey, ten classes, on the CPU.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.engine import engine, noise, settings_of
from benchmarks.turns import Steps, take_turns

CONTENDERS = ("plain", "dcgan", "r3gan", "r3gan, passes alone")
BATCH, IMAGES, CLASSES = 128, 12_800, 10


def main() -> None:
    """Print one row per contender."""
    columns = [("over plain", "plain", CONTENDERS[:2]), ("of the passes", CONTENDERS[3], CONTENDERS[2:])]
    take_turns("benchmarks.dcgan_speed", __doc__, CONTENDERS, _contender, BATCH, columns)


@contextmanager
def _contender(name: str, threads: int) -> Iterator[Steps]:
    if name == "plain":
        yield _plain(threads)
    elif name == "r3gan, passes alone":
        yield _passes(threads)
    else:
        with engine("pytorch", name, noise(IMAGES, 28), CLASSES, BATCH) as steps:
            yield steps


def _networks(preset: str) -> tuple[Any, Any, Any]:
    """(generator, discriminator, settings), with weights as Troika draws them, in PyTorch's default layout."""
    from troika.models.contract import ModelSpec
    from troika.models.gan.batches import derive_seed
    from troika.models.gan.layers import draw_weights
    from troika.models.gan.networks import plan_discriminator, plan_generator
    from troika.models.gan.pytorch_networks import Discriminator, Generator, put_weights

    settings = settings_of(preset)
    spec = ModelSpec(
        family="gan", framework="pytorch", preset=preset, image_shape=(28, 28, 1), num_classes=CLASSES,
        conditional=True, latent_size=settings.latent_size,
    )  # fmt: skip
    layers = plan_generator(settings, spec), plan_discriminator(settings, spec)
    generator = Generator(layers[0], CLASSES, settings.label_scale)
    discriminator = Discriminator(layers[1], spec.image_shape)
    put_weights(generator, draw_weights(layers[0], derive_seed(0, "generator", 0)))
    put_weights(discriminator, draw_weights(layers[1], derive_seed(0, "discriminator", 0)))
    return generator, discriminator, settings


def _plain(threads: int) -> Steps:
    import torch
    from torch.utils.data import DataLoader, Dataset

    torch.set_num_threads(threads)
    images = noise(IMAGES, 28)
    generator, discriminator, settings = _networks("dcgan")

    class Pictures(Dataset[tuple[torch.Tensor, int]]):
        """One image at a time, as torchvision's ToTensor and Normalize give it."""

        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            picture = torch.from_numpy(images[index]).permute(2, 0, 1).contiguous().float().div(255)
            return picture.sub(0.5).div(0.5), index % CLASSES

    loader = DataLoader(Pictures(), BATCH, shuffle=True, drop_last=True)
    score = torch.nn.BCEWithLogitsLoss()
    adams = [
        torch.optim.Adam(network.parameters(), lr=settings.learning_rate_start, betas=(0.5, 0.999))
        for network in (discriminator, generator)
    ]
    ones, zeros = torch.ones(BATCH), torch.zeros(BATCH)

    def endless() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from loader

    batches = endless()

    def steps(count: int) -> None:
        for _ in range(count):
            real, labels = next(batches)
            discriminator.zero_grad()
            of_real = score(discriminator(real, labels), ones)
            of_real.backward()
            fake = generator(torch.randn(BATCH, settings.latent_size), labels)
            of_fake = score(discriminator(fake.detach(), labels), zeros)
            of_fake.backward()
            adams[0].step()
            generator.zero_grad()
            of_generator = score(discriminator(fake, labels), ones)
            of_generator.backward()
            adams[1].step()
            _ = of_real.item() + of_fake.item(), of_generator.item()

    return steps


def _passes(threads: int) -> Steps:
    """What a step of the default preset cannot do without, on one batch that is there already."""
    import torch

    from troika.models.gan.pytorch_losses import LOSSES, squared_gradients, zero_centred_penalty

    torch.set_num_threads(threads)
    generator, discriminator, settings = _networks("r3gan")
    for network in (generator, discriminator):
        network.to(memory_format=torch.channels_last)
    loss, weight = LOSSES[settings.loss], settings.penalty_gamma_start * settings.penalty_every
    real = torch.rand(BATCH, 1, 28, 28).mul(2).sub(1).to(memory_format=torch.channels_last)
    latents, labels = torch.randn(BATCH, settings.latent_size), torch.arange(BATCH) % CLASSES
    twice = torch.cat([labels, labels])
    weights = [list(network.parameters()) for network in (generator, discriminator)]

    numbers = itertools.count()

    def steps(count: int) -> None:
        for number in itertools.islice(numbers, count):
            fake = generator(latents, labels)
            penalised = number % settings.penalty_every == 0
            pair = torch.cat([real, fake.detach()]).requires_grad_(penalised)
            scores = discriminator(pair, twice)
            of_real, of_fake = scores.chunk(2)
            total = loss.discriminator(of_real, of_fake)
            if penalised:
                halves = squared_gradients(scores, pair).chunk(2)
                total = total + weight * sum(map(zero_centred_penalty, halves))
            torch.autograd.grad(total, weights[1])
            with torch.no_grad():
                of_real = discriminator(real, labels)
            torch.autograd.grad(loss.generator(of_real, discriminator(fake, labels)), weights[0])

    return steps


if __name__ == "__main__":
    main()
