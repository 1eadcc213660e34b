"""Classification accuracy score: how well real images are told apart by who has seen generated ones only.

Ravuri and Vinyals 2019 (arXiv 1905.10887), with a linear classifier on given features instead of a deep network:
it takes under a second and has no random state, so that two models are compared and not two trainings.
"""

import numpy as np
from sklearn.linear_model import RidgeClassifier

from troika.datasets.contract import Labels
from troika.quality.rows import Floats, check_pair

_SHRINKAGE = 1e-3
"""Of the classifier's weights, for each training row."""


def accuracy_of_features(
    features: Floats, labels: Labels, held_out: Floats, held_out_labels: Labels, num_classes: int
) -> float:
    """Share of held-out images whose class is told right, 0..1.

    Args:
        features: of generated images, (N, D), by random filters: the evaluator has been trained to tell real
            classes apart, and would flatter.
        labels: (N,), what was asked for.
        held_out: features of real images, (M, D).
        held_out_labels: (M,), their classes.
        num_classes: how many there are; one that was never asked for is never told.

    Raises:
        ValueError: no rows, different features, NaN, not one label for each row, or a label outside the classes.
    """
    check_pair("generated", features, "held-out", held_out)
    for name, rows, given in (("generated", features, labels), ("held-out", held_out, held_out_labels)):
        if given.shape != (len(rows),):
            raise ValueError(f"{name}: one label for each of {len(rows)} rows is needed, not {given.shape}")
        if given.min() < 0 or given.max() >= num_classes:
            raise ValueError(f"{name}: labels must be 0..{num_classes - 1}, not {given.min()}..{given.max()}")
    mean, spread = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    # What does not vary tells nothing; divided by its rounding it would tell nonsense.
    steady = spread <= 1e-6 * np.maximum(np.abs(mean), 1e-30)
    scale = np.where(steady, 0, 1 / np.where(steady, 1, spread))
    classifier = RidgeClassifier(alpha=_SHRINKAGE * len(features), solver="cholesky")
    classifier.fit(((features - mean) * scale).astype(np.float32), labels)
    # Scaled weights instead of scaled rows: held-out images are many.
    weights = classifier.coef_ * scale
    classifier.coef_ = weights.astype(held_out.dtype)
    classifier.intercept_ = classifier.intercept_ - weights @ mean
    return float((classifier.predict(held_out) == held_out_labels).mean())
