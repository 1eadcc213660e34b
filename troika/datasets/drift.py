"""How a data set differs from an earlier version of it: images that came and went, class shares, brightness."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from troika.datasets.contract import SPLITS, Dataset
from troika.datasets.keys import Keys, keys_of

BINS = 32
"""Fields of equal width that brightness 0..255 is counted in."""
_STEP_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Profile:
    """What two versions are compared by."""

    title: str
    content_hash: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    keys: Keys
    splits: NDArray[np.int8]
    class_counts: dict[str, int]
    brightness: NDArray[np.int64]
    """Images in each of BINS fields of mean brightness."""


@dataclass(frozen=True)
class Drift:
    """From an earlier version to this one."""

    previous: Profile
    added: int
    removed: int
    kept: int
    moved: int
    """Images that are in both, but on another side of the split."""
    class_shift: float
    """Total variation between the class shares, 0..1."""
    brightness_shift: float
    """Population stability index of brightness; above 0.2 is usually called a clear change."""

    @property
    def same(self) -> bool:
        """Whether nothing has changed at all."""
        return not (self.added or self.removed or self.moved)


def profile_of(dataset: Dataset) -> Profile:
    """Read a dataset through, piece by piece."""
    info = dataset.info
    keys: list[Keys] = []
    brightness = np.zeros(BINS, np.int64)
    step = max(1, _STEP_BYTES // int(np.prod(info.shape)))
    for name in SPLITS:
        images = dataset.splits[name].images
        for start in range(0, len(images), step):
            some = np.asarray(images[start : start + step])
            keys.append(keys_of(some))
            brightness += brightness_counts(some.reshape(len(some), -1).mean(axis=1))
    counts = sum(np.bincount(split.labels, minlength=len(info.classes)) for split in dataset.splits.values())
    origin = info.origin
    title = f"{info.source}" if origin.commit else f"{info.source}, {info.content_hash[:19]}"
    return Profile(
        title=title,
        content_hash=info.content_hash,
        classes=info.classes,
        shape=info.shape,
        keys=np.concatenate(keys),
        splits=np.repeat(np.arange(len(SPLITS), dtype=np.int8), [info.counts[name] for name in SPLITS]),
        class_counts=dict(zip(info.classes, map(int, np.atleast_1d(counts)), strict=True)),
        brightness=brightness,
    )


def brightness_counts(means: NDArray[Any]) -> NDArray[np.int64]:
    """Images in each of BINS fields, from their mean levels (N,)."""
    return np.bincount(np.minimum(means * (BINS / 256), BINS - 1).astype(np.int64), minlength=BINS)


def compare(previous: Profile, current: Profile) -> Drift:
    """What has changed; an image is known by its pixels, whatever its file is called."""
    old, new = _sides(previous), _sides(current)
    both = old.keys() & new.keys()
    names = sorted(previous.class_counts.keys() | current.class_counts.keys())
    before, after = (
        np.array([profile.class_counts.get(name, 0) for name in names], float) for profile in (previous, current)
    )
    return Drift(
        previous=previous,
        added=len(new) - len(both),
        removed=len(old) - len(both),
        kept=len(both),
        moved=sum(old[key] != new[key] for key in both),
        class_shift=float(np.abs(before / before.sum() - after / after.sum()).sum() / 2),
        brightness_shift=stability_index(previous.brightness, current.brightness),
    )


def stability_index(before: NDArray[np.int64], after: NDArray[np.int64]) -> float:
    """Population stability index of two histograms; half a count in each field keeps it finite."""
    p = (before + 0.5) / (before + 0.5).sum()
    q = (after + 0.5) / (after + 0.5).sum()
    return float(((p - q) * np.log(p / q)).sum())


def _sides(profile: Profile) -> dict[bytes, int]:
    """Half of each key (16 bytes: no two images share them) -> its split."""
    halves = np.ascontiguousarray(profile.keys[:, :16]).view("S16")[:, 0]
    return dict(zip(halves.tolist(), profile.splits.tolist(), strict=True))
