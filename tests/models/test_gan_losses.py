import math

import pytest
import torch

from troika.models.gan.losses import LOSSES, gradient_penalties
from troika.models.gan.training import cosine

REAL, FAKE = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def test_relativistic_loss_compares_pairs() -> None:
    loss = LOSSES["relativistic"]
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx((softplus(-0.5) + softplus(5)) / 2)
    assert loss.generator(REAL, FAKE).item() == pytest.approx((softplus(0.5) + softplus(-5)) / 2)


def test_non_saturating_loss_is_binary_cross_entropy() -> None:
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    loss = LOSSES["non_saturating"]
    expected = entropy(REAL, torch.ones(2)) + entropy(FAKE, torch.zeros(2))
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx(expected.item())
    assert loss.generator(REAL, FAKE).item() == pytest.approx(entropy(FAKE, torch.ones(2)).item())


def test_penalties_are_half_the_mean_squared_gradients() -> None:
    weights = torch.tensor([[3.0, 4.0]], requires_grad=True)
    images = torch.tensor([[[[1.0, 2.0]]], [[[5.0, 0.0]]]], requires_grad=True)
    scores = (images.flatten(1).square() @ weights.T).squeeze(1)
    r1, r2 = gradient_penalties(scores, images)
    assert r1.item() == pytest.approx(((2 * 3 * 1) ** 2 + (2 * 4 * 2) ** 2) / 2)
    assert r2.item() == pytest.approx((2 * 3 * 5) ** 2 / 2)
    r1.backward()
    assert weights.grad is not None  # the penalty itself can be minimised


def test_cosine_goes_from_start_to_end() -> None:
    assert [cosine(4, 2, done) for done in (0, 0.5, 1)] == pytest.approx([4, 3, 2])
