import math

import pytest
import torch

from troika.models.gan.pytorch_losses import (
    LOSSES,
    mix,
    one_centred_penalty,
    squared_gradients,
    zero_centred_penalty,
)

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


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [
        # Worked out by hand from the scores above.
        ("hinge", (0 + 3) / 2 + (1.5 + 4) / 2, -(0.5 + 3) / 2),
        ("least_squares", ((0 + 9) / 2 + (0.25 + 9) / 2) / 2, (0.25 + 4) / 2 / 2),
        ("wasserstein", 1.75 + 0.5, -1.75),
    ],
)
def test_other_losses(name: str, discriminator: float, generator: float) -> None:
    loss = LOSSES[name]
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx(discriminator)
    assert loss.generator(REAL, FAKE).item() == pytest.approx(generator)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_says_whether_it_compares_pairs(name: str) -> None:
    loss = LOSSES[name]
    changes = not torch.equal(loss.generator(REAL, FAKE), loss.generator(REAL + 1, FAKE))
    assert changes == loss.compares_pairs


def test_penalties_are_those_of_the_gradient_at_each_image() -> None:
    weights = torch.tensor([[3.0, 4.0]], requires_grad=True)
    images = torch.tensor([[[[1.0, 2.0]]], [[[5.0, 0.0]]]], requires_grad=True)
    scores = (images.flatten(1).square() @ weights.T).squeeze(1)
    squares = squared_gradients(scores, images)
    first, second = (2 * 3 * 1) ** 2 + (2 * 4 * 2) ** 2, (2 * 3 * 5) ** 2
    assert squares.tolist() == pytest.approx([first, second])
    assert zero_centred_penalty(squares).item() == pytest.approx((first + second) / 2 / 2)
    penalty = one_centred_penalty(squares)
    assert penalty.item() == pytest.approx(((first**0.5 - 1) ** 2 + (second**0.5 - 1) ** 2) / 2)
    penalty.backward()
    assert weights.grad is not None  # the penalty itself can be minimised
    assert weights.grad.abs().min() > 0


def test_a_gradient_of_zero_can_be_penalised() -> None:
    squares = torch.zeros(2, requires_grad=True)
    one_centred_penalty(squares).backward()
    assert squares.grad is not None
    assert squares.grad.isfinite().all()


def test_mixtures_lie_between() -> None:
    real, fake = torch.zeros(3, 1, 2, 2), torch.ones(3, 1, 2, 2)
    mixed = mix(real, fake, torch.tensor([0.0, 0.25, 1.0]))
    assert mixed[:, 0, 0, 0].tolist() == [0.0, 0.25, 1.0]
