"""Does an image look like the training data? A distance in the network's feature space.

Mahalanobis distance to the training features, after scaling every feature vector to length 1, with the covariance
shrunk by Ledoit and Wolf's rule so that it can be inverted however few images there are (Lee et al., NeurIPS 2018;
the scaling is Mueller and Hein's Mahalanobis++, ICML 2025). It needs no labels and one matrix product per image. On
simulated scintigrams it separated noise, bone scans, natural pictures, digits and other organs better than the
distance to the k-th neighbour (Sun et al., ICML 2022), which also has to keep all training features; see
`docs/metrics.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.covariance import LedoitWolf

from scintikit.errors import MetricError
from scintikit.metrics.checks import check_fraction


def fit_ood(
    features_train: ArrayLike, features_validation: ArrayLike, *, quantile: float = 0.95
) -> dict[str, np.ndarray | float]:
    """Describe the training data so that `ood_score` can tell what does not look like it.

    Parameters
    ----------
    features_train : array_like, shape (N, D)
        What the classifier's last layer gets for the training images, not augmented.
    features_validation : array_like, shape (M, D)
        The same for images that were not trained on: those that were look closer than they are.
    quantile : float
        Share of validation images below the threshold; 0.95 flags 5 % of what is in distribution.

    Returns
    -------
    dict
        `mean` (D,) and `whitening` (D, D), float32, and the number `threshold`: an image with a higher score is to be
        flagged. Turn the arrays into tensors to keep them beside a network's weights; `ood_score` takes those too.

    Raises
    ------
    MetricError
        Features are not finite, do not fit together, or there are fewer than two.
    """
    check_fraction(quantile, "The quantile")
    train = _unit(_check(features_train, "training"))
    if len(train) < 2:
        raise MetricError("There is one training feature vector; expected at least two, better hundreds.")
    estimate = LedoitWolf().fit(train)
    values, vectors = np.linalg.eigh(estimate.covariance_)
    if values[0] <= 0:
        raise MetricError("The training features are too few or all the same; expected those of many images.")
    model: dict[str, np.ndarray | float] = {
        "mean": estimate.location_.astype(np.float32),
        "whitening": (vectors / np.sqrt(values)).astype(np.float32),
    }
    model["threshold"] = float(np.quantile(ood_score(features_validation, model), quantile, method="higher"))
    return model


def ood_score(features: ArrayLike, model: Mapping[str, Any]) -> np.ndarray:
    """Return how far each image lies from the training data, float64 `(N,)`; compare it to `model["threshold"]`.

    Parameters
    ----------
    features : array_like, shape (N, D)
        From the same network as the model's.
    model : mapping
        From `fit_ood`; its arrays may have become CPU tensors.

    Raises
    ------
    MetricError
        Features are not finite or their width is not the model's.
    """
    mean, whitening = (np.asarray(model[key], dtype=np.float64) for key in ("mean", "whitening"))
    values = _check(features, "given")
    if values.shape[1] != len(mean):
        raise MetricError(f"Features have {values.shape[1]} columns; the out-of-distribution model has {len(mean)}.")
    return np.linalg.norm((_unit(values) - mean) @ whitening, axis=1)


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(np.finfo(float).tiny)


def _check(features: ArrayLike, which: str) -> np.ndarray:
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise MetricError(f"The {which} features of shape {values.shape} are unusable; expected finite (items, width).")
    return values
