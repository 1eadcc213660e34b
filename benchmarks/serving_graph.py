"""The generator that all servers of benchmarks/serving.py run, and how fast it is without; starts none."""

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from troika.models.contract import ModelSpec
from troika.models.export import build_onnx
from troika.onnx_session import open_session, run_generator
from troika.torch_onnx import to_onnx

LATENT, CLASSES = 64, 10
Shape = tuple[int, int, int]


class _Generator(nn.Module):
    """A conditional DCGAN generator: about 1.2 M parameters for 32x32x1, 3.9 M for 64x64x3."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        height, _, channels = shape
        widths = {32: [256, 128, 64], 64: [384, 256, 128, 64]}[height]
        self.width = widths[0]
        self.start = nn.Linear(LATENT + CLASSES, self.width * 16)
        self.known: Tensor
        self.register_buffer("known", torch.eye(CLASSES))
        layers: list[nn.Module] = []
        for wide, narrow in zip(widths, [*widths[1:], channels], strict=True):
            layers += [nn.ReLU(), nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1)]
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        """(batch, H, W, C) in -1..1."""
        start = self.start(torch.cat([latent, self.known[label]], dim=1)).unflatten(1, (self.width, 4, 4))
        images: Tensor = self.layers(start).permute(0, 2, 3, 1)
        return images


def write_graph(path: Path, shape: Shape) -> None:
    """A generator with random weights: speed does not depend on them."""
    torch.manual_seed(0)
    core = path.with_suffix(".core")
    examples = (torch.zeros(2, LATENT), torch.zeros(2, dtype=torch.int64))
    core.write_bytes(to_onnx(_Generator(shape).eval(), examples, ["latent", "label"], ["image_float"]))
    spec = ModelSpec(
        family="gan", framework="pytorch", preset="dcgan", image_shape=shape, latent_size=LATENT,
        num_classes=CLASSES, conditional=True,
    )  # fmt: skip
    build_onnx(core, spec, path)


def in_process(graph: Path, batch: int) -> float:
    """Microseconds of processor time an image, on one thread."""
    session = open_session(graph)
    seeds = np.arange(batch, dtype=np.int64)
    run_generator(session, seeds, seeds % CLASSES)
    count, started, end = 0, time.process_time(), time.monotonic() + 1.5
    while time.monotonic() < end:
        run_generator(session, seeds + count, seeds % CLASSES)
        count += batch
    return (time.process_time() - started) / count * 1e6
