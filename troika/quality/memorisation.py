"""How much of the training images a generator gives again: nearest neighbours, in pixels or in features.

Knows no limits. No distance between distributions sees copies: they are as good as real (that is what they are).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from troika.quality.pairs import Places, Rows
from troika.quality.rows import Floats, check_pair

_MOST = 1e6
"""The largest ratio that is told; beyond it, held-out rows are copies of training rows."""


@dataclass(frozen=True)
class Memorisation:
    """How near generated rows come to training rows, against how near held-out rows come."""

    auc: float
    """P(generated nearer to training than held-out), ties half: 0.5 as unlike as new real images, 1 copies."""
    duplicates: float
    """Share of generated rows as near to a training row as the closest 1 % of held-out rows are; null 0.01."""
    distance_ratio: float
    """Median nearest distance, generated to held-out: 1 as unlike as new real images, 0 copies; at most 1e6."""
    nearest: NDArray[np.int64]
    """(N,): the nearest training row of each generated one."""
    distances: NDArray[np.float64]
    """(N,): Euclidean distance to it, exactly 0 for a copy."""
    own_distances: Callable[[NDArray[np.int64]], NDArray[np.float64]]
    """Of training rows: the distance to their nearest other training row."""

    @cached_property
    def spacing(self) -> NDArray[np.float64]:
        """(N,): distance of that training row to its own nearest training row: what is near, there."""
        return self.own_distances(self.nearest)

    @cached_property
    def authenticity(self) -> float:
        """Share of generated rows farther from their nearest training row than that has its own nearest.

        Copies: 0. Alaa et al. 2022 (arXiv 2102.08921).
        """
        return float((self.distances > self.spacing).mean())


class TrainingIndex:
    """Training rows, and how near held-out rows come to them; computed once for many sets of generated rows."""

    def __init__(self, train: Floats, held_out: Floats) -> None:
        """Take `train` (T, D), T >= 2, and `held_out` (M, D).

        Raises:
            ValueError: too few rows, different features, NaN or infinity.
        """
        check_pair("training", train, "held-out", held_out)
        if len(train) < 2:
            raise ValueError(f"training: at least 2 rows are needed, not {len(train)}")
        self._train = Rows(np.asarray(train, np.float32))
        _, distances = self._nearest(held_out)
        self._held_out = np.sort(distances)
        self._own: dict[int, float] = {}

    def of(self, fake: Floats) -> Memorisation:
        """Figures of generated rows (N, D).

        Raises:
            ValueError: no rows, other features than the training rows, NaN or infinity.
        """
        check_pair("generated", fake, "training", self._train.rows)
        nearest, distances = self._nearest(fake)
        held_out, count = self._held_out, len(self._held_out)
        before = np.searchsorted(held_out, distances, side="left")
        upto = np.searchsorted(held_out, distances, side="right")
        # A measured distance, and met by "at most": a copy counts even where held-out images are copies too.
        closest = held_out[int(0.01 * (count - 1))]
        usual, found = float(np.median(held_out)), float(np.median(distances))
        return Memorisation(
            auc=float(1 - (before + upto).mean() / (2 * count)),
            duplicates=float((distances <= closest).mean()),
            distance_ratio=min(found / usual, _MOST) if usual else (_MOST if found else 1.0),
            nearest=nearest,
            distances=distances,
            own_distances=self._own_distances,
        )

    def _own_distances(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Distance of these training rows (N,) to their nearest other training row; kept for the next call."""
        missing = np.array([row for row in np.unique(rows) if int(row) not in self._own], np.int64)
        if len(missing):
            _, distances = self._nearest(self._train.rows[missing], without=missing)
            self._own.update(zip(missing.tolist(), distances.tolist(), strict=True))
        return np.array([self._own[int(row)] for row in rows])

    def _nearest(self, rows: Floats, without: Places | None = None) -> tuple[Places, NDArray[np.float64]]:
        # One type on both sides: a copy has distance 0 whatever it came as.
        return Rows(np.asarray(rows, np.float32), self._train.middle).nearest(self._train, without)
