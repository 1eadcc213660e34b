"""Adam by PyTorch's fused kernel, with all numbers given at every step, and moments by name.

The kernel alone, not torch.optim.Adam: its bookkeeping takes a twentieth of a step on small images, and on a GPU
more than the kernel.
"""

import torch
from torch import Tensor, nn

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
        self._count = torch.zeros((), device=self.weights[0].device)
        moments = list(self.first.values()), list(self.second.values())
        self._state = (*moments, list[Tensor](), [self._count] * len(self.weights))

    def gradients(self, loss: Tensor, *others: Tensor, slopes: Tensor | None = None) -> list[Tensor]:
        """Of the loss, in the order of `weights`, then at `others`; nothing is computed for any other network.

        `slopes`: of what is minimised at `loss`, where that is not a scalar.
        """
        found = torch.autograd.grad(loss, [*self.weights, *others], slopes)
        # The kernel walks through memory, so a gradient must lie there as its weight does.
        return [
            one if one.stride() == weight.stride() else torch.empty_like(weight).copy_(one)
            for one, weight in zip(found, self.weights, strict=False)
        ] + list(found[len(self.weights) :])

    @torch.no_grad()
    def apply(self, gradients: list[Tensor], hyper: Hyper) -> None:
        """Take one step along `gradients`, which are in the order of `weights`."""
        self._count += 1
        torch._fused_adam_(
            self.weights,
            gradients,
            *self._state,
            lr=hyper.learning_rate,
            beta1=hyper.beta1,
            beta2=hyper.beta2,
            weight_decay=self._l2,
            eps=_EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def count_from(self, step: int) -> None:
        """Go on as after so many steps."""
        self._count.fill_(step)
