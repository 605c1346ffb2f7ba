"""The table of predictions: what `predictions.csv` holds and the report reads."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from scintikit.errors import ReportError
from scintikit.metrics.diseases import set_name

PREFIX = "p_"  # the columns of probabilities are "p_" + class name, in the order of the classes


def predictions_table(
    ids: Sequence[str],
    probabilities: ArrayLike,
    class_names: Sequence[str],
    *,
    labels: ArrayLike | None = None,
    centres: Sequence[str] | None = None,
    sets: ArrayLike | None = None,
    ood_scores: ArrayLike | None = None,
) -> pd.DataFrame:
    """Return one row per image.

    Parameters
    ----------
    ids : sequence of str
        Pseudonyms of the N images; they are shown in reports.
    probabilities : array_like, shape (N, C)
    class_names : sequence of str
        C names in the order of the columns.
    labels : array_like of int, shape (N,), optional
        True classes.
    centres : sequence of str, optional
    sets : array_like of bool, shape (N, C), optional
        Conformal sets.
    ood_scores : array_like, shape (N,), optional

    Returns
    -------
    DataFrame
        Columns `id`, `centre`, `label` (name of the true class), `prediction` (name of the most probable class),
        `probability` (its probability), `p_<class>` for every class, `set` (names joined by " | ") and `ood_score`;
        what was not given has no column.

    Raises
    ------
    ReportError
        The lengths differ.
    """
    names = np.array([str(name) for name in class_names])
    values = _check(ids, names, probabilities, centre=centres, label=labels, set=sets, ood_score=ood_scores)
    columns: dict[str, ArrayLike] = {"id": [str(identifier) for identifier in ids]}
    if centres is not None:
        columns["centre"] = [str(centre) for centre in centres]
    if labels is not None:
        columns["label"] = names[np.asarray(labels)]
    columns["prediction"] = names[values.argmax(axis=1)]
    columns["probability"] = values.max(axis=1)
    columns |= {PREFIX + name: values[:, c] for c, name in enumerate(names)}
    if sets is not None:
        columns["set"] = [" | ".join(names[members]) for members in np.asarray(sets, dtype=bool)]
    if ood_scores is not None:
        columns["ood_score"] = np.asarray(ood_scores, dtype=float)
    return pd.DataFrame(columns)


def diseases_table(
    ids: Sequence[str],
    probabilities: ArrayLike,
    class_names: Sequence[str],
    thresholds: ArrayLike,
    *,
    normal: str = "normal",
    labels: ArrayLike | None = None,
    centres: Sequence[str] | None = None,
    ood_scores: ArrayLike | None = None,
) -> pd.DataFrame:
    """Return one row per image where several diseases can be present at once.

    Parameters
    ----------
    ids, centres, ood_scores
        As in `predictions_table`.
    probabilities : array_like, shape (N, D)
    class_names : sequence of str
        D diseases in the order of the columns.
    thresholds : array_like, shape (D,)
        A disease is called present from this probability on.
    normal : str
        What stands for none of them.
    labels : array_like of 0 and 1, shape (N, D), optional

    Returns
    -------
    DataFrame
        Columns `id`, `centre`, `label` and `called` (names of the diseases that are, or are called, present, joined by
        " | ", or `normal`), `p_<class>` for every disease and `ood_score`; what was not given has no column.

    Raises
    ------
    ReportError
        The lengths differ.
    """
    names = [str(name) for name in class_names]
    values = _check(ids, names, probabilities, centre=centres, label=labels, ood_score=ood_scores)
    columns: dict[str, ArrayLike] = {"id": [str(identifier) for identifier in ids]}
    if centres is not None:
        columns["centre"] = [str(centre) for centre in centres]
    if labels is not None:
        columns["label"] = [set_name(row, names, normal) for row in np.asarray(labels)]
    columns["called"] = [set_name(row, names, normal) for row in values >= np.asarray(thresholds, dtype=float)]
    columns |= {PREFIX + name: values[:, d] for d, name in enumerate(names)}
    if ood_scores is not None:
        columns["ood_score"] = np.asarray(ood_scores, dtype=float)
    return pd.DataFrame(columns)


def _check(ids: Sequence[str], names: Sized, probabilities: ArrayLike, **given: Any) -> np.ndarray:
    values = np.asarray(probabilities, dtype=float)
    lengths = {what: len(np.asarray(column)) for what, column in given.items() if column is not None}
    if values.shape != (len(ids), len(names)) or set(lengths.values()) - {len(ids)}:
        raise ReportError(
            f"{len(ids)} ids and {len(names)} class names do not fit probabilities of shape {values.shape} "
            f"and columns of lengths {lengths}; expected one row per id and one probability per class."
        )
    return values
