"""A convolution whose gradient at its inputs can be differentiated again at the price of ordinary passes.

PyTorch derives that second derivative as one convolution with kernels as large as the images, for which cuDNN has
no fast way: at 64 x 64 pixels it took half the time of a penalised step's passes. Written as a transposed
convolution, whose own derivatives are ordinary ones, the first derivative needs none of that (the idea:
conv2d_gradfix of StyleGAN2-ADA, arXiv 2006.06676). A processor gains little by it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d


class Convolution(nn.Conv2d):
    """nn.Conv2d with zeros around."""

    twice = False
    """Whether the next pass is for a gradient at the images that will be differentiated again."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        if not self.twice:
            return super().forward(inputs)
        weight, bias, device = self.weight, self.bias, inputs.device.type
        if torch.is_autocast_enabled(device):
            kind = torch.get_autocast_dtype(device)
            inputs, weight = inputs.to(kind), weight.to(kind)
            bias = None if bias is None else bias.to(kind)
        outputs: Tensor = _Twice.apply(inputs, weight, bias, self.stride, self.padding, self.groups)  # type: ignore[no-untyped-call]
        return outputs


class _Twice(torch.autograd.Function):
    """While a gradient is itself recorded it is that at the inputs alone, as penalties need no other then."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.shape = stride, padding, groups
        ctx.biased = bias is not None
        return conv2d(inputs, weight, bias, stride, padding, 1, groups)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        stride, padding, groups = ctx.shape
        if torch.is_grad_enabled():
            missing = [
                inputs.shape[axis]
                - ((slopes.shape[axis] - 1) * stride[axis - 2] - 2 * padding[axis - 2] + weight.shape[axis])
                for axis in (2, 3)
            ]
            at_inputs = conv_transpose2d(slopes, weight, None, stride, padding, missing, groups)
            return at_inputs, None, None, None, None, None
        wanted = [*ctx.needs_input_grad[:2], ctx.biased]
        gradients = torch.ops.aten.convolution_backward(
            slopes, inputs, weight, [len(weight)], stride, padding, [1, 1], False, [0, 0], groups, wanted
        )
        return (*gradients, None, None, None)
