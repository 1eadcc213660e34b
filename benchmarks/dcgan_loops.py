"""For benchmarks of speed: a plain public-style DCGAN loop, the default preset's passes. Measures nothing."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.engine import noise, settings_of
from benchmarks.turns import Steps
from troika.models.contract import ModelSpec
from troika.models.gan.batches import derive_seed
from troika.models.gan.layers import draw_weights
from troika.models.gan.networks import plan_discriminator, plan_generator
from troika.models.gan.pytorch_losses import LOSSES, squared_gradients, zero_centred_penalty
from troika.models.gan.pytorch_networks import Discriminator, Generator, put_weights

BATCH, IMAGES, CLASSES = 128, 12_800, 10


def networks_of(preset: str, side: int = 28) -> tuple[Generator, Discriminator, Any]:
    """(generator, discriminator, settings), with weights as Troika draws them, in PyTorch's default layout."""
    settings = settings_of(preset)
    spec = ModelSpec(
        family="gan", framework="pytorch", preset=preset, image_shape=(side, side, 1), num_classes=CLASSES,
        conditional=True, latent_size=settings.latent_size,
    )  # fmt: skip
    layers = plan_generator(settings, spec), plan_discriminator(settings, spec)
    generator = Generator(layers[0], CLASSES, settings.label_scale)
    discriminator = Discriminator(layers[1], spec.image_shape)
    put_weights(generator, draw_weights(layers[0], derive_seed(0, "generator", 0)))
    put_weights(discriminator, draw_weights(layers[1], derive_seed(0, "discriminator", 0)))
    return generator, discriminator, settings


class _Pictures(Dataset[tuple[Tensor, int]]):
    """One image at a time, as torchvision's ToTensor and Normalize give it."""

    def __init__(self) -> None:
        self._images = noise(IMAGES, 28)

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = torch.from_numpy(self._images[index]).permute(2, 0, 1).contiguous().float().div(255)
        return picture.sub(0.5).div(0.5), index % CLASSES


def plain_loop(device: str, workers: int) -> Steps:
    """Of public tutorials, with the network of the preset `dcgan`; `workers` processes load images, 0: its own."""
    generator, discriminator, settings = networks_of("dcgan")
    generator.to(device), discriminator.to(device)
    loader = DataLoader(
        _Pictures(), BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=device == "cuda",
    )  # fmt: skip
    score = torch.nn.BCEWithLogitsLoss()
    adams = [
        torch.optim.Adam(network.parameters(), lr=settings.learning_rate_start, betas=(0.5, 0.999))
        for network in (discriminator, generator)
    ]
    ones, zeros = torch.ones(BATCH, device=device), torch.zeros(BATCH, device=device)

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from loader

    batches = endless()

    def steps(count: int) -> None:
        for _ in range(count):
            real, labels = (one.to(device, non_blocking=True) for one in next(batches))
            discriminator.zero_grad()
            of_real = score(discriminator(real, labels), ones)
            of_real.backward()
            fake = generator(torch.randn(BATCH, settings.latent_size, device=device), labels)
            of_fake = score(discriminator(fake.detach(), labels), zeros)
            of_fake.backward()
            adams[0].step()
            generator.zero_grad()
            of_generator = score(discriminator(fake, labels), ones)
            of_generator.backward()
            adams[1].step()
            _ = of_real.item() + of_fake.item(), of_generator.item()

    return steps


class Passes:
    """What a step of the default preset cannot do without, on one batch that is there already."""

    def __init__(self, device: str, precision: torch.dtype, side: int = 28) -> None:
        self._device, self._precision = device, precision
        self._generator, self._discriminator, settings = networks_of("r3gan", side)
        for network in (self._generator, self._discriminator):
            network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._loss, self.every = LOSSES[settings.loss], settings.penalty_every
        self._weight = settings.penalty_gamma_start * settings.penalty_every
        random = torch.rand(BATCH, 1, side, side, device=device).mul(2).sub(1)
        self._real = random.to(memory_format=torch.channels_last)
        self._latents = torch.randn(BATCH, settings.latent_size, device=device)
        self._labels = torch.arange(BATCH, device=device) % CLASSES
        self._twice = torch.cat([self._labels, self._labels])
        self._weights = [list(network.parameters()) for network in (self._generator, self._discriminator)]

    def once(self, *, penalised: bool) -> None:
        """Forward and back, both networks."""
        generator, discriminator, labels = self._generator, self._discriminator, self._labels
        with torch.autocast(self._device, self._precision, enabled=self._precision != torch.float32):
            fake = generator(self._latents, labels)
            pair = torch.cat([self._real, fake.detach()]).requires_grad_(penalised)
            scores = discriminator(pair, self._twice, penalised=penalised)
            of_real, of_fake = scores.chunk(2)
            total = self._loss.discriminator(of_real, of_fake)
            if penalised:
                halves = squared_gradients(scores, pair).chunk(2)
                total = total + self._weight * sum(map(zero_centred_penalty, halves))
        torch.autograd.grad(total, self._weights[1])
        with torch.autocast(self._device, self._precision, enabled=self._precision != torch.float32):
            with torch.no_grad():
                of_real = discriminator(self._real, labels)
            of_generator = self._loss.generator(of_real, discriminator(fake, labels))
        torch.autograd.grad(of_generator, self._weights[0])


def passes_alone() -> Steps:
    """On the CPU, one after another."""
    passes, numbers = Passes("cpu", torch.float32), itertools.count()

    def steps(count: int) -> None:
        for number in itertools.islice(numbers, count):
            passes.once(penalised=number % passes.every == 0)

    return steps


def recorded_passes() -> Steps:
    """On a GPU in bfloat16, as CUDA graphs."""
    passes, numbers = Passes("cuda", torch.bfloat16), itertools.count()
    graphs = {}
    for penalised in (True, False):
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            passes.once(penalised=penalised)
        torch.cuda.current_stream().wait_stream(aside)
        graphs[penalised] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graphs[penalised]):
            passes.once(penalised=penalised)

    def steps(count: int) -> None:
        for number in itertools.islice(numbers, count):
            graphs[number % passes.every == 0].replay()
        torch.cuda.synchronize()

    return steps
