"""An image stays on its side of the split for good, each class gets its share, and equal images stay together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_images import members, prepare_npz, random_images, split_up

from troika.datasets.contract import SPLITS
from troika.datasets.keys import keys_of
from troika.datasets.splits import check_every_class_everywhere, split_numbers
from troika.errors import DatasetError


def test_the_shares_come_out_as_asked_in_every_class() -> None:
    keys = keys_of(random_images(8000))
    labels = np.arange(8000) % 4
    numbers = split_numbers(keys, 0.1, 0.25)
    for label in range(4):
        counts = np.bincount(numbers[labels == label], minlength=3) / 2000
        assert counts == pytest.approx([0.65, 0.1, 0.25], abs=0.03)


def test_the_order_within_a_split_says_nothing_of_the_place_in_the_source() -> None:
    images = random_images(2000)
    places = {image.tobytes(): index for index, image in enumerate(images)}
    train = split_up(images, np.zeros(2000, np.int64))["train"]
    order = [places[image.tobytes()] for image in train.images]
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.1


Seeds = st.integers(0, 2**32)


@settings(max_examples=30)
@given(seed=Seeds, more=st.integers(1, 80), shuffle=Seeds)
def test_more_images_never_move_old_ones(seed: int, more: int, shuffle: int) -> None:
    old, new = random_images(80, seed=seed), random_images(more, seed=seed + 1)
    images = np.concatenate([old, new])[np.random.default_rng(shuffle).permutation(80 + more)]
    before = members(split_up(old, np.zeros(80, np.int64)))
    after = members(split_up(images, np.zeros(80 + more, np.int64)))
    assert before.items() <= after.items()
    assert after.keys() == {image.tobytes() for image in images}


def test_neither_copies_nor_near_copies_move_old_images(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Through the whole step, with copies and almost equal pictures among the new ones."""
    old = random_images(120, size=(8, 8))
    near = old[:40].copy()
    near[:, 0, 0] ^= 1
    images = np.concatenate([near, random_images(30, seed=3, size=(8, 8)), old[:20], old])
    folder = tmp_path_factory.mktemp("splits")
    before = members(prepare_npz(folder / "old", old, np.arange(120) % 2).splits)
    labels = np.concatenate([np.arange(40) % 2, np.arange(30) % 2, np.arange(20) % 2, np.arange(120) % 2])
    after = members(prepare_npz(folder / "new", images, labels).splits)
    assert all(before[key] == after[key] for key in before.keys() & after.keys())
    # An old image may make way for its near copy, where that one came to stand in held-out data; none else goes.
    assert len(before.keys() - after.keys()) <= 40
    assert {image.tobytes() for image in old[40:]} <= after.keys()


@given(share=st.floats(0.01, 0.4))
@settings(max_examples=20)
def test_a_larger_share_only_takes_from_training(share: float) -> None:
    keys = keys_of(random_images(300))
    small, large = split_numbers(keys, 0.2, 0.2), split_numbers(keys, 0.2 + share, 0.2)
    moved = {(SPLITS[a], SPLITS[b]) for a, b in zip(small, large, strict=True) if a != b}
    assert moved <= {("train", "validation")}


def test_a_class_that_misses_a_split_is_named() -> None:
    numbers, labels = np.array([0, 1, 2, 0], np.int8), np.array([0, 0, 0, 1])
    with pytest.raises(DatasetError, match=r"class 'b' has no image in the validation split .* give more images"):
        check_every_class_everywhere(numbers, labels, ("a", "b"), given=False)
