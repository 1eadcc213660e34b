"""The numbers that every step notes down: their names, and their means. Knows no framework.

A backend keeps them on its device as rows, one per step, float32 (REPORT_EVERY, len(FIGURES)); they are part of
the saved state, so that a resumed training reports the same means.
"""

import numpy as np
from numpy.typing import NDArray

REPORT_EVERY = 50
"""Steps between two reports; figures are read from the device no more often."""

FIGURES = (
    "generator_loss",
    "discriminator_loss",
    "score_real",
    "score_fake",
    "penalty_r1",
    "penalty_r2",
    "penalty_wgan_gp",
    "generator_gradient_norm",
    "discriminator_gradient_norm",
)
ALWAYS = 4
"""So many of them belong to every step; the others only to some ..."""
ABSENT = -1.0
"""... and this stands in their place elsewhere: none of them can be negative."""

Rows = NDArray[np.float32]


def notes_gradients(step: int) -> bool:
    """Whether step 0, 1, 2, ... notes its gradient norms: the last one before a report does."""
    return step % REPORT_EVERY == REPORT_EVERY - 1


def mean_figures(rows: Rows) -> dict[str, float]:
    """Name -> mean over the steps that have it; those that no step has are left out."""
    means = {}
    for index, name in enumerate(FIGURES):
        values = rows[:, index].astype(np.float64)
        present = values if index < ALWAYS else values[values != ABSENT]
        if len(present):
            means[name] = float(present.mean())
    return means
