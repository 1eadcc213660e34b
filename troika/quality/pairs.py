"""Distances between all rows of two sets, block by block: as fast as float32, as right as differences in float64.

|a|^2 + |b|^2 - 2ab is one matrix product, but rounding spoils what lies close together. So it only chooses:
whatever rounding could decide is measured again by differences, or, where that is much (a collapsed generator), in
float64.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from troika.quality.rows import Floats, blocks, on_all_cores, parts_of

Squares = NDArray[np.float64]
Places = NDArray[np.int64]
Pairs = tuple[Places, Places]

_SLACK = 4e-6
"""What a squared distance in float32 may be off by, as a share of both squared lengths; more for many features."""
_EQUAL = 1e-12
"""The same in float64: below it, rows are equal."""
_TIE = 1 - 1e-10
"""Squared distances that differ by less than this are ties, whatever order the sums were done in."""
_MANY = 64
"""Pairs for each row that are measured one by one; with more, the block is done in float64."""
_GROUPS = 32
_TILE = 4096
"""Others that a row is held against at once."""
_ALL = slice(None)


class Rows:
    """Rows (N, D), and what is needed for distances to and among them."""

    def __init__(self, rows: Floats, middle: NDArray[np.float64] | None = None) -> None:
        """Take rows as they are, and count from `middle` (D,), by default their mean: it saves digits."""
        self.rows = rows
        self.middle = rows.mean(axis=0, dtype=np.float64) if middle is None else middle
        dimensions = rows.shape[1]
        # Row b as (b, |b|^2, 1): its product with (-2a, 1, |a|^2) is the squared distance.
        self._wide = np.ones((len(rows), dimensions + 2), np.float32)
        np.subtract(rows, self.middle, out=self._wide[:, :dimensions], casting="unsafe")
        short = self._wide[:, :dimensions]
        self._lengths: NDArray[np.float32] = np.einsum("nd,nd->n", short, short)
        self._wide[:, dimensions] = self._lengths
        self._precise: tuple[Squares, Squares] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def radii(self, k: int) -> Squares:
        """Squared distance (N,) of each row to its k-th nearest other row, k < N."""
        radii = np.empty(len(self))
        for part in blocks(len(self), len(self)):
            squares = self._roughly(part, self)
            # A row's nearest row is itself, at place 0.
            near = squares <= (_upper_bound(squares, k) + 2 * self._slack(part, self))[:, np.newaxis]
            if np.count_nonzero(near) > (_MANY + k) * len(squares):
                radii[part] = np.partition(self._precisely(part, self), k, axis=1)[:, k]
                continue
            which, others = _places(near)
            exact = self._by_differences(which + part.start, others, self)
            order = np.lexsort((exact, which))
            radii[part] = exact[order[np.searchsorted(which, np.arange(len(squares))) + k]]
        return radii

    def nearest(self, others: "Rows", without: Places | None = None) -> tuple[Places, Squares]:
        """The nearest of the others, for each row (N,), and the distance; of equally near ones the first.

        Args:
            others: rows with the same `middle`.
            without: (N,), for each row one of the others that does not count.
        """
        # A matrix product of few rows by very many is slow.
        tiles = list(parts_of(len(others), _TILE))
        found = on_all_cores(lambda tile: self._nearest_in(tile, others, without), tiles)
        places, squares = (np.stack(values) for values in zip(*found, strict=True))
        first = squares.argmin(axis=0)
        rows = np.arange(len(self))
        return places[first, rows], np.sqrt(squares[first, rows])

    def _nearest_in(self, tile: slice, others: "Rows", without: Places | None) -> tuple[Places, Squares]:
        """`nearest` of some of the others, with squared distances; infinite where none of them counts."""
        nearest, least = np.empty(len(self), np.int64), np.empty(len(self))
        for part in blocks(len(self), tile.stop - tile.start):
            squares = self._roughly(part, others, tile)
            if without is not None:
                (away,) = np.nonzero((without[part] >= tile.start) & (without[part] < tile.stop))
                squares[away, without[part][away] - tile.start] = np.inf
            bound = squares.min(axis=1) + 2 * self._slack(part, others)
            here, there = _places(squares <= bound[:, np.newaxis])
            # Where a whole set is equal, some of it stand for all.
            few = np.arange(len(here)) - np.searchsorted(here, here) < _MANY
            here, there = here[few], there[few] + tile.start
            exact = self._by_differences(here + part.start, there, others)
            if without is not None:
                exact[there == without[part][here]] = np.inf
            order = np.lexsort((there, exact, here))
            chosen = order[np.searchsorted(here, np.arange(len(squares)))]
            nearest[part], least[part] = there[chosen], exact[chosen]
        return nearest, least

    def within(self, others: "Rows", radii: Squares, others_radii: Squares) -> Iterator[tuple[Pairs, Pairs]]:
        """Pairs (places here, places among the others) nearer than a radius, block by block; a tie is not nearer.

        Args:
            others: rows with the same `middle`.
            radii: squared, one for each row here: of these are the first pairs.
            others_radii: squared, one for each of the others: of these are the second.
        """
        for part in blocks(len(self), len(others)):
            squares = self._roughly(part, others)
            own = self._nearer(part, others, squares, (radii[part] * _TIE)[:, np.newaxis])
            yield own, self._nearer(part, others, squares, (others_radii * _TIE)[np.newaxis])

    def _nearer(self, part: slice, others: "Rows", squares: NDArray[np.float32], limits: Squares) -> Pairs:
        """Pairs with squared distances below limits (rows of part, 1) or (1, others)."""
        slack = self._slack(part, others)[:, np.newaxis]
        here, there = _places(squares < limits.astype(np.float32) + slack)
        limit = np.broadcast_to(limits, squares.shape)[here, there]
        (close,) = np.nonzero(squares[here, there] >= limit - slack[here, 0])
        if len(close) > _MANY * len(squares):
            here, there = _places(self._precisely(part, others) < limits)
            return here + part.start, there
        inside = np.ones(len(here), np.bool_)
        inside[close] = self._by_differences(here[close] + part.start, there[close], others) < limit[close]
        return here[inside] + part.start, there[inside]

    def _roughly(self, part: slice, others: "Rows", tile: slice = _ALL) -> NDArray[np.float32]:
        """Squared distances (rows of part, others of tile), right but for float32; may be a little below 0."""
        left = self._wide[part] * np.float32(-2)
        left[:, -2] = 1
        left[:, -1] = self._lengths[part]
        squares: NDArray[np.float32] = left @ others._wide[tile].T
        return squares

    def _slack(self, part: slice, others: "Rows") -> NDArray[np.float32]:
        """What squared distances of these rows to the others may be off by."""
        share = np.float32(_SLACK * max(1.0, self.rows.shape[1] ** 0.5 / 16))
        found: NDArray[np.float32] = share * (self._lengths[part] + others._lengths.max())
        return found

    def _precisely(self, part: slice, others: "Rows") -> Squares:
        """The same in float64, with exactly 0 for equal rows."""
        (rows, lengths), (there, lengths_there) = self._in_float64(), others._in_float64()
        squares: Squares = rows[part] @ there.T
        squares *= -2
        squares += lengths[part, np.newaxis]
        squares += lengths_there
        squares[squares < _EQUAL * lengths[part, np.newaxis]] = 0
        return squares

    def _in_float64(self) -> tuple[Squares, Squares]:
        if self._precise is None:
            rows = np.asarray(self.rows, np.float64) - self.middle
            self._precise = rows, np.einsum("nd,nd->n", rows, rows)
        return self._precise

    def _by_differences(self, here: Places, there: Places, others: "Rows") -> Squares:
        """Squared distances (P,) of pairs of places (P,) and (P,); exactly 0 for equal rows."""
        squares = np.empty(len(here))
        for part in blocks(len(here), self.rows.shape[1]):
            gap = np.subtract(self.rows[here[part]], others.rows[there[part]], dtype=np.float64)
            squares[part] = np.einsum("nd,nd->n", gap, gap)
        return squares


def _places(chosen: NDArray[np.bool_]) -> Pairs:
    """Where a table (N, M) is true, in order; np.nonzero of the flat table is several times as fast."""
    return np.divmod(np.flatnonzero(chosen), chosen.shape[1])


def _upper_bound(values: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """For each row of values (N, M), something that at least k + 1 of them do not exceed; seldom many more."""
    count, width = values.shape
    groups = width // _GROUPS
    if groups <= 2 * k:
        return np.partition(values, k, axis=1)[:, k]
    # The least of each group: k + 1 groups whose least is small hold k + 1 small values.
    least = values[:, : groups * _GROUPS].reshape(count, _GROUPS, groups).min(axis=1)
    return np.partition(least, k, axis=1)[:, k]
