"""Adam by PyTorch's fused kernel, with all numbers given at every step, and moments by name.

Not torch.optim.Adam: its bookkeeping takes a twentieth of a step on small images.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from troika.models.gan.schedules import Hyper

_EPSILON = 1e-8


class Adam:
    """Adam (arXiv 1412.6980) of a network, with L2 regularisation (`l2` times the weight) in the gradient."""

    def __init__(self, network: nn.Module, l2: float) -> None:
        named = dict(network.named_parameters())
        self._l2 = l2
        self.weights: list[Tensor] = list(named.values())
        self.first = {name: torch.zeros_like(weight) for name, weight in named.items()}
        """Running averages of gradients ..."""
        self.second = {name: torch.zeros_like(weight) for name, weight in named.items()}
        """... and of their squares."""
        self._counts = [torch.zeros((), device=weight.device) for weight in self.weights]

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """Of the loss, in the order of `weights`; nothing is computed for any other network."""
        found = torch.autograd.grad(loss, self.weights)
        # The kernel walks through memory, so a gradient must lie there as its weight does.
        return [
            one if one.stride() == weight.stride() else torch.empty_like(weight).copy_(one)
            for one, weight in zip(found, self.weights, strict=True)
        ]

    @torch.no_grad()
    def apply(self, gradients: Sequence[Tensor], hyper: Hyper) -> None:
        """Take one step along `gradients`, which are in the order of `weights`."""
        adam(
            self.weights,
            list(gradients),
            list(self.first.values()),
            list(self.second.values()),
            [],
            self._counts,
            fused=True,
            amsgrad=False,
            beta1=hyper.beta1,
            beta2=hyper.beta2,
            lr=hyper.learning_rate,
            weight_decay=self._l2,
            eps=_EPSILON,
            maximize=False,
        )

    def count_from(self, step: int) -> None:
        """Go on as after so many steps."""
        for count in self._counts:
            count.fill_(step)
