"""How the evaluator is trained; the only part of judging that needs PyTorch."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from troika.datasets.contract import Split
from troika.quality.evaluator import TURNS, Evaluator, EvaluatorFacts, EvaluatorParams, turned
from troika.torch_onnx import to_onnx
from troika.torch_threads import few_threads


class _Network(nn.Module):
    """Images (N, H, W, C) in 0..255 -> features (N, D), logits (N, K)."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int, features: int) -> None:
        super().__init__()
        height, width, channels = shape
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
        )
        flat = 64 * -(-height // 4) * -(-width // 4)
        self.to_features = nn.Sequential(nn.Flatten(), nn.Linear(flat, features), nn.LeakyReLU(0.1))
        self.to_logits = nn.Linear(features, num_classes)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        scaled = image.float().permute(0, 3, 1, 2) / 127.5 - 1
        found = self.to_features(self.convolutions(scaled))
        return found, self.to_logits(found)


class _OneClass(nn.Module):
    """The network that tells turns, with one logit for the one class."""

    def __init__(self, network: _Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, turns = self.network(image)
        return features, turns[:, :1], turns


@few_threads()
def train_evaluator(
    split: Split, shape: tuple[int, int, int], num_classes: int, params: EvaluatorParams
) -> Evaluator:
    """Train on `split`; the same split and parameters give the same evaluator on the same machine.

    Where there is one class only, telling classes teaches nothing: it learns to tell four turns of an image
    (Gidaris et al. 2018, arXiv 1803.07728).
    """
    one_class = num_classes == 1
    generator = torch.Generator().manual_seed(params.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        network = _Network(shape, TURNS if one_class else num_classes, params.features)
    optimiser = torch.optim.AdamW(network.parameters(), lr=params.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, params.steps)
    loss = nn.CrossEntropyLoss(label_smoothing=0.05)
    for seen, wanted in islice(_batches(split, params.batch_size, generator), params.steps):
        if one_class:
            seen, wanted = _turned(seen, generator)  # noqa: PLW2901
        _, logits = network(_shifted(seen, generator))
        optimiser.zero_grad()
        loss(logits, wanted).backward()
        optimiser.step()
        schedule.step()
    network.eval()
    images = torch.from_numpy(np.array(split.images[:2]))
    if one_class:
        outputs = ["features", "logits", "turns"]
        return Evaluator(to_onnx(_OneClass(network).eval(), images, ["image"], outputs))
    return Evaluator(to_onnx(network, images, ["image"], ["features", "logits"]))


def _batches(split: Split, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (N, H, W, C) and labels (N,), epoch after epoch in new random order; only a batch is in memory."""
    while True:
        for chosen in torch.split(torch.randperm(len(split), generator=generator), size):
            rows = chosen.numpy()
            yield torch.from_numpy(split.images[rows]), torch.from_numpy(np.asarray(split.labels[rows]))


def with_facts(evaluator: Evaluator, facts: EvaluatorFacts) -> Evaluator:
    """The same graph, whose file says what it was made from."""
    model = onnx.load_from_string(evaluator.onnx)
    onnx.helper.set_model_props(model, facts.properties())
    return Evaluator(model.SerializeToString(deterministic=True))


def _turned(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each of the images (N, H, W, C) in a random one of four turns, and which (N,)."""
    turns, order = torch.randint(0, TURNS, (len(images),), generator=generator).sort()
    parts = [turned(images[order[turns == turn]].numpy(), turn) for turn in range(TURNS)]
    return torch.from_numpy(np.concatenate(parts)), turns


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of the images (N, H, W, C) moved by up to one pixel each way; the rim repeats the nearest pixels."""
    count, height, width, _ = images.shape
    padded = functional.pad(images.permute(0, 3, 1, 2).float(), (1, 1, 1, 1), mode="replicate")
    down, right = torch.randint(0, 3, (2, count, 1), generator=generator)
    rows = (down + torch.arange(height)).view(count, height, 1)
    columns = (right + torch.arange(width)).view(count, 1, width)
    return padded.permute(0, 2, 3, 1)[torch.arange(count).view(count, 1, 1), rows, columns]
