"""Bad images are left out with a reason; the others stay on their side of the split for good."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_images import SHARES, members, random_raw, split_up

from troika.datasets.checks import Refused, assign_splits, find_refused, image_keys
from troika.datasets.sources import RawImages, read_source
from troika.errors import DatasetError


def refused_of(raw: RawImages) -> list[Refused]:
    return find_refused(raw, image_keys(raw))


def test_good_images_are_not_refused() -> None:
    assert refused_of(random_raw(50)) == []
    assert refused_of(read_source("digits", None)) == []


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_one_tone_is_refused_each_time(channels: int) -> None:
    raw = random_raw(6, channels=channels)
    raw.images[1], raw.images[4] = 0, 7
    raw.images[5] = 7
    value = ", ".join(["7"] * channels)
    assert [(entry.index, entry.reason, entry.detail) for entry in refused_of(raw)] == [
        (1, "constant", "every pixel is " + ", ".join(["0"] * channels)),
        (4, "constant", f"every pixel is {value}"),
        (5, "constant", f"every pixel is {value}"),
    ]


def test_a_picture_of_one_colour_is_refused_too() -> None:
    raw = random_raw(4, channels=3)
    raw.images[2] = (255, 0, 9)
    assert refused_of(raw) == [Refused(2, 0, "constant", "every pixel is 255, 0, 9")]


def test_almost_one_tone_is_enough() -> None:
    raw = random_raw(4)
    raw.images[2] = 0
    raw.images[2, -1, -1] = 1
    assert refused_of(raw) == []


def test_of_equal_pictures_the_first_is_kept() -> None:
    raw = random_raw(8)
    raw.images[[4, 6]] = raw.images[2]
    assert refused_of(raw) == [
        Refused(4, 0, "duplicate", "same as image 2"),
        Refused(6, 0, "duplicate", "same as image 2"),
    ]
    assert sum(len(split) for split in split_up(replace_many(raw)).values()) == 58


def replace_many(raw: RawImages) -> RawImages:
    """The same with 52 more, so that each split gets something."""
    more = random_raw(52, seed=9)
    return replace(
        raw, images=np.concatenate([raw.images, more.images]), labels=np.concatenate([raw.labels, more.labels])
    )


def test_a_picture_under_two_labels_is_trusted_in_neither() -> None:
    raw = random_raw(8)
    raw.images[[3, 4]] = raw.images[2]
    reason = "contradictory labels"
    assert refused_of(raw) == [
        Refused(2, 0, reason, "same picture labelled a and b"),
        Refused(3, 1, reason, "same picture labelled a and b"),
        Refused(4, 0, reason, "same picture labelled a and b"),
    ]


def test_a_class_that_misses_a_split_is_named() -> None:
    raw = random_raw(60)
    raw.labels[:] = 0
    raw.labels[7] = 1
    with pytest.raises(DatasetError, match=r"class 'b' has no image in the \w+ split .* give more images"):
        split_up(raw)


def test_the_shares_come_out_as_asked() -> None:
    raw = random_raw(4000)
    keys = image_keys(raw)
    splits = assign_splits(raw, keys, [], 0.1, 0.25)
    counts = {name: len(split) / 4000 for name, split in splits.items()}
    assert counts == pytest.approx({"train": 0.65, "validation": 0.1, "test": 0.25}, abs=0.03)


def test_the_order_within_a_split_says_nothing_of_the_place_in_the_source() -> None:
    raw = random_raw(2000)
    places = {image.tobytes(): index for index, image in enumerate(raw.images)}
    train = split_up(raw)["train"]
    order = [places[image.tobytes()] for image in train.images]
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.1


Seeds = st.integers(0, 2**32)


@settings(max_examples=40)
@given(seed=Seeds, more=st.integers(1, 80), shuffle=Seeds, repeat=st.booleans())
def test_more_images_never_move_old_ones(seed: int, more: int, shuffle: int, repeat: bool) -> None:
    old = random_raw(80, seed=seed)
    new = random_raw(more, seed=seed + 1)
    images, labels = np.concatenate([old.images, new.images]), np.concatenate([old.labels, new.labels])
    if repeat:
        images, labels = np.concatenate([images, old.images[:7]]), np.concatenate([labels, old.labels[:7]])
    order = np.random.default_rng(shuffle).permutation(len(images))
    before = members(split_up(old))
    after = members(split_up(replace(old, images=images[order], labels=labels[order])))
    assert before.items() <= after.items()
    assert after.keys() == {image.tobytes() for image in images}


@settings(max_examples=40)
@given(seed=Seeds, copies=st.lists(st.tuples(st.integers(0, 79), st.integers(0, 1)), max_size=30))
def test_no_equal_pictures_stand_on_two_sides(seed: int, copies: list[tuple[int, int]]) -> None:
    raw = random_raw(80, seed=seed)
    chosen = [index for index, _ in copies]
    images = np.concatenate([raw.images, raw.images[chosen]])
    labels = np.concatenate([raw.labels, np.array([label for _, label in copies], dtype=np.int64)])
    whole = replace(raw, images=images, labels=labels)
    found = members(split_up(whole))  # fails by itself if an image stands in two places
    contradicted = {images[index].tobytes() for index, label in copies if label != raw.labels[index]}
    assert found.keys() == {image.tobytes() for image in images} - contradicted


@given(share=st.floats(0.01, 0.4))
@settings(max_examples=20)
def test_a_larger_share_only_takes_from_training(share: float) -> None:
    raw = random_raw(300)
    keys = image_keys(raw)
    small = members(assign_splits(raw, keys, [], *SHARES))
    large = members(assign_splits(raw, keys, [], SHARES[0] + share, SHARES[1]))
    moved = {(small[key], large[key]) for key in small if small[key] != large[key]}
    assert moved <= {("train", "validation")}
