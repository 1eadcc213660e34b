"""Nearest neighbours of generated rows: precision, recall, density, coverage.

Plain arrays in, plain figures out. Works in blocks, so memory grows with one side, not with both. Decides nothing:
what is good depends on the same figures for real against real.
"""

from dataclasses import dataclass

import numpy as np

from troika.quality.pairs import Rows
from troika.quality.rows import Floats, check_pair, check_rows


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
        self._real = Rows(real)
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
        radii = Rows(fake).radii(self.k)
        rows = Rows(fake, self._real.middle)
        held = np.zeros(len(rows), np.int64)
        covered, recalled = (np.zeros(len(self._real), np.bool_) for _ in range(2))
        for (balls, inside), (recalls, _) in self._real.within(rows, self._radii, radii):
            held += np.bincount(inside, minlength=len(rows))
            covered[balls] = True
            recalled[recalls] = True
        return Neighbourhood(
            precision=float((held > 0).mean()),
            recall=float(recalled.mean()),
            density=float(held.mean()) / self.k,
            coverage=float(covered.mean()),
        )


def neighbourhood(fake: Floats, real: Floats, k: int = 5) -> Neighbourhood:
    """Figures of generated rows (N, D) among real ones (M, D), see `RealNeighbourhood`."""
    return RealNeighbourhood(real, k).of(fake)
