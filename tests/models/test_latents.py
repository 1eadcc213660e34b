import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from troika.errors import ParameterError
from troika.models.latents import SEED_MAX, draw_latents, mix64

VECTORS = json.loads((Path(__file__).parent / "latents_vectors.json").read_text(encoding="utf-8"))
SEEDS = st.integers(0, SEED_MAX)


def test_integers_are_those_of_splitmix64() -> None:
    # The first outputs for the state 1234567, as published with the algorithm in several languages.
    gamma = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + (j + 1) * gamma) % 2**64 for j in range(3)], dtype=np.uint64)
    assert mix64(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["seed"]))
def test_vectors(vector: dict[str, list[str]]) -> None:
    expected = np.array([float.fromhex(value) for value in vector["latent"]], dtype=np.float32)
    # One unit in the last place: log, cos and sin may come from another mathematical library.
    np.testing.assert_array_max_ulp(draw_latents([int(vector["seed"])], len(expected))[0], expected, maxulp=1)


@given(st.lists(SEEDS, min_size=1, max_size=20), st.integers(1, 70))
def test_a_latent_depends_on_its_seed_alone(seeds: list[int], size: int) -> None:
    together = draw_latents(seeds, size)
    assert together.shape == (len(seeds), size)
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    for row, seed in zip(together, seeds, strict=True):
        # The same values up to the last bit: numpy may take another path for another array length.
        np.testing.assert_array_max_ulp(row, draw_latents([seed], size)[0], maxulp=1)


@given(SEEDS, st.integers(1, 40), st.integers(1, 40))
def test_a_smaller_latent_is_a_prefix(seed: int, size: int, more: int) -> None:
    shorter, longer = draw_latents([seed], size), draw_latents([seed], size + more)
    np.testing.assert_array_max_ulp(longer[:, :size], shorter, maxulp=1)


@settings(max_examples=5)
@given(st.integers(0, SEED_MAX - 20_000))
def test_neighbouring_seeds_give_independent_normal_values(first: int) -> None:
    latents = draw_latents(range(first, first + 20_000), 8).astype(np.float64)
    values = np.concatenate([latents, np.roll(latents, 1, axis=0)], axis=1)
    assert np.abs(values.mean(0)).max() < 6 / 20_000**0.5
    # Within a latent, between its values, and between a seed's and the next seed's.
    assert np.abs(np.cov(values.T) - np.eye(16)).max() < 0.06
    assert abs((latents**4).mean() - 3) < 0.2


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64, 1.5, True, "7"])
def test_other_seeds_are_refused_by_name(seed: object) -> None:
    with pytest.raises(ParameterError, match=rf"^seed: .*0\.\.{SEED_MAX}"):
        draw_latents([5, seed], 4)  # type: ignore[list-item]


def test_an_empty_latent_is_refused() -> None:
    with pytest.raises(ParameterError, match="latent_size"):
        draw_latents([1], 0)


def test_no_seeds_give_no_latents() -> None:
    assert draw_latents([], 4).shape == (0, 4)
