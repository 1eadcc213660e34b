"""Pictures that are almost the same: copies that were saved, scaled or brightened anew.

Two pictures of one class are compared by their thumbnails (facts.py), where brightness and contrast do not matter,
but colour does. Nearest neighbours come from a k-d tree over the twelve directions in which the thumbnails vary
most: that shortens distances and never lengthens them, so no pair is lost, and the whole vectors decide.
"""

import numpy as np
from numpy.typing import NDArray

from troika.datasets.cores import usable_cores

_DIRECTIONS = 12
_NEIGHBOURS = 4
_ROWS = 16384

Thumbnails = NDArray[np.float16]


class Neighbourhood:
    """Finds, among some thumbnails, one that lies nearer than a distance."""

    def __init__(
        self,
        thumbnails: Thumbnails,
        members: NDArray[np.int64],
        distance: float,
        labels: NDArray[np.int64] | None = None,
    ) -> None:
        """Look among `thumbnails[members]`; those that are all zero are left out.

        Args:
            thumbnails: of all images.
            members: positions of those to look among.
            distance: at most 0.5.
            labels: of all images: only those with the same label are near. By default all have the same.
        """
        from scipy.spatial import cKDTree  # noqa: PLC0415 - slow to import

        self._all, self._distance = thumbnails, distance
        self._labels = np.zeros(len(thumbnails), np.int64) if labels is None else labels
        self._members = _with_shape(thumbnails, members)
        self._axes = _main_axes(thumbnails, self._members)
        self._tree = cKDTree(self._project(self._members), balanced_tree=False, compact_nodes=True)

    def nearest(self, indices: NDArray[np.int64]) -> dict[int, tuple[int, float]]:
        """Index -> the nearest other member and its distance, for each of `indices` that has one near enough."""
        found: dict[int, tuple[int, float]] = {}
        if not len(self._members):
            return found
        wanted = _with_shape(self._all, indices)
        for start in range(0, len(wanted), _ROWS):
            some = wanted[start : start + _ROWS]
            distances, places = self._tree.query(
                self._project(some),
                k=_NEIGHBOURS,
                distance_upper_bound=self._distance * 1.001,
                workers=usable_cores(),
            )
            rows, columns = np.nonzero(np.isfinite(distances))
            others = self._members[places[rows, columns]]
            rows, others = rows[others != some[rows]], others[others != some[rows]]
            exact = np.linalg.norm(
                self._all[some[rows]].astype(np.float32) - self._all[others].astype(np.float32), axis=1
            )
            for row, other, length in zip(rows, others, exact, strict=True):
                index = int(some[row])
                if length <= self._distance and length < found.get(index, (0, np.inf))[1]:
                    found[index] = (int(other), float(length))
        return found

    def _project(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        projected = np.empty((len(indices), _DIRECTIONS + 1), np.float32)
        projected[:, _DIRECTIONS] = self._labels[
            indices
        ]  # whole numbers, which are further apart than any distance
        for start in range(0, len(indices), _ROWS):
            some = indices[start : start + _ROWS]
            projected[start : start + _ROWS, :_DIRECTIONS] = self._all[some].astype(np.float32) @ self._axes
        return projected


def _with_shape(thumbnails: Thumbnails, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    chosen: NDArray[np.int64] = indices[thumbnails[indices].any(axis=1)]
    return chosen


def _main_axes(thumbnails: Thumbnails, members: NDArray[np.int64]) -> NDArray[np.float32]:
    """(width of a thumbnail, 12): orthonormal."""
    width = thumbnails.shape[1]
    products = np.zeros((width, width))
    for start in range(0, len(members), _ROWS):
        some = thumbnails[members[start : start + _ROWS]].astype(np.float32)
        products += some.T @ some
    _, vectors = np.linalg.eigh(products)
    return np.ascontiguousarray(vectors[:, ::-1][:, :_DIRECTIONS], np.float32)
