"""Nearest neighbours of generated rows: precision, recall, density, coverage.

Plain arrays in, plain figures out. Works in blocks, so memory grows with one side, not with both. Decides nothing:
what is good depends on the same figures for real against real.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from troika.quality.rows import Floats, blocks, check_pair, check_rows

Distances = NDArray[np.float64]

_EQUAL = 1e-12
"""Squared distances below this share of a row's squared length are rounding of |a|^2 + |b|^2 - 2ab: zero."""
_TIE = 1 - 1e-10
"""Squared distances that differ by less than this are ties, whatever order the sums were done in."""


@dataclass(frozen=True)
class Neighbourhood:
    """How two sets of rows lie among each other, each 0..1 but density, which may exceed 1."""

    precision: float
    """Share of generated rows that lie within the k-th neighbour distance of some real row."""
    recall: float
    """Share of real rows that lie within the k-th neighbour distance of some generated row."""
    density: float
    """Real balls around a generated row, in the mean, divided by k; unlike precision, not ruled by outliers."""
    coverage: float
    """Share of real rows whose own ball holds a generated row."""


class RealNeighbourhood:
    """The real side, whose radii are computed once for many sets of generated rows."""

    def __init__(self, real: Floats, k: int = 5) -> None:
        """Take `real` (M, D), M > k, as reference.

        Raises:
            ValueError: k is below 1, too few rows, NaN or infinity.
        """
        if k < 1:
            raise ValueError(f"k: at least 1 neighbour is needed, not {k}")
        check_rows("real", real, k + 1)
        self.k = k
        # Shorter rows lose fewer digits to |a|^2 + |b|^2 - 2ab.
        self._middle = np.asarray(real, np.float64).mean(axis=0)
        self._real = _Rows(real, self._middle)
        self._radii = self._real.radii(k)

    def of(self, fake: Floats) -> Neighbourhood:
        """Figures of generated rows (N, D), N > k; N should be M, since all four depend on both counts.

        Precision and recall: Kynkäänniemi et al. 2019 (arXiv 1904.06991). Density and coverage: Naeem et al. 2020
        (arXiv 2002.09797). A row at exactly the radius is outside, so a ball of radius 0 (a collapsed generator:
        all rows equal) holds nothing.

        Raises:
            ValueError: too few rows, other features than the real ones, NaN or infinity.
        """
        check_pair("generated", fake, "real", self._real.rows, self.k + 1)
        rows = _Rows(fake, self._middle)
        radii = rows.radii(self.k)
        balls, covered = 0, 0
        inside = np.zeros(len(rows.rows), np.int64)
        for part in blocks(len(self._real.rows), len(rows.rows)):
            squared = self._real.squared(part, rows)
            own = self._radii[part]
            within = squared < own[:, np.newaxis]
            inside += within.sum(axis=0)
            covered += int(within.any(axis=1).sum())
            balls += int((squared < radii).any(axis=1).sum())
        reals = len(self._real.rows)
        return Neighbourhood(
            precision=float((inside > 0).mean()),
            recall=balls / reals,
            density=float(inside.mean()) / self.k,
            coverage=covered / reals,
        )


def neighbourhood(fake: Floats, real: Floats, k: int = 5) -> Neighbourhood:
    """Figures of generated rows (N, D) among real ones (M, D), see `RealNeighbourhood`."""
    return RealNeighbourhood(real, k).of(fake)


class _Rows:
    """Rows (N, D) moved by `middle`, in float64, with their squared lengths."""

    def __init__(self, rows: Floats, middle: Distances) -> None:
        self.rows: Distances = np.asarray(rows, np.float64) - middle
        self.lengths: Distances = np.einsum("nd,nd->n", self.rows, self.rows)

    def squared(self, part: slice, others: "_Rows") -> Distances:
        """Squared distances (rows of part, all others); equal rows have exactly 0."""
        found: Distances = self.rows[part] @ others.rows.T
        found *= -2
        found += self.lengths[part, np.newaxis]
        found += others.lengths
        found[found < _EQUAL * self.lengths[part, np.newaxis]] = 0
        return found

    def radii(self, k: int) -> Distances:
        """Squared distance of each row to its k-th nearest other row, a hair smaller so that ties are outside."""
        radii = np.empty(len(self.rows))
        for part in blocks(len(self.rows), len(self.rows)):
            squared = self.squared(part, self)
            # A row's nearest row is itself, at place 0.
            radii[part] = np.partition(squared, k, axis=1)[:, k]
        return radii * _TIE
