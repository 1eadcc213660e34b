"""The convolution whose gradient can be differentiated again cheaply, against PyTorch's own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from troika.models.gan.pytorch_convolution import Convolution
from troika.models.gan.pytorch_losses import squared_gradients, zero_centred_penalty

CASES: dict[str, dict[str, Any]] = {
    "halving": {"kernel_size": 4, "stride": 2, "padding": 1},
    "odd size, halved": {"kernel_size": 3, "stride": 2, "padding": 1},
    "no bias": {"kernel_size": 3, "padding": 1, "bias": False},
    "in groups": {"kernel_size": 3, "padding": 1, "groups": 2},
    "pointwise": {"kernel_size": 1},
}


def gradients(convolution: Convolution, images: Tensor, *, twice: bool) -> list[Tensor]:
    """Of a loss and a penalty on the gradient at the images, by weight, bias and images."""
    convolution.twice = twice
    images = images.clone().requires_grad_()
    scores = convolution(convolution(images).tanh()).tanh().flatten(1).sum(1)
    total = scores.mean() + zero_centred_penalty(squared_gradients(scores, images))
    return list(torch.autograd.grad(total, [*convolution.parameters(), images]))


@pytest.mark.parametrize("case", CASES)
def test_both_derivatives_are_those_of_pytorch(case: str) -> None:
    torch.manual_seed(0)
    convolution = Convolution(4, 4, **CASES[case]).double()
    images = torch.randn(3, 4, 11 if "odd" in case else 12, 12, dtype=torch.float64)
    for one, same in zip(
        gradients(convolution, images, twice=True), gradients(convolution, images, twice=False), strict=True
    ):
        # squared_gradients rounds to float32 on the way.
        torch.testing.assert_close(one, same, rtol=1e-5, atol=1e-6)


def test_half_precision_is_that_of_the_block_around_it() -> None:
    torch.manual_seed(0)
    convolution = Convolution(4, 4, 3, padding=1)
    images = torch.randn(3, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        convolution.twice = True
        assert convolution(images).dtype == torch.bfloat16
        made = [gradients(convolution, images, twice=twice) for twice in (True, False)]
    for one, same in zip(*made, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, same, rtol=0.05, atol=0.05)
