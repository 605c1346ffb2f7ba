"""Does a heat map point at the lesions? Share of lesions hit by its maxima against false hits per image (FROC)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage
from scipy.spatial.distance import cdist

from scintikit.errors import MetricError
from scintikit.metrics.checks import check_class_names, check_groups
from scintikit.metrics.classification import Scores, ratio
from scintikit.metrics.evaluate import estimates

TOLERANCE_MM = 20.0  # about two widths of a gamma camera's blur: nearer, a maximum and a lesion look like one
RATES = np.linspace(0, 8, 401)  # false hits per image at which a curve is measured
FAR_MM = 1e6  # between the views of one patient: what lies in the other view is never near
VIEWWISE = np.pad(np.ones((1, 3, 3), dtype=bool), ((1, 1), (0, 0), (0, 0)))  # eight neighbours, in the same view


class Hits(NamedTuple):
    """What the maxima of one disease's heat maps met."""

    lesion_item: np.ndarray  # (L,) the item that each lesion lies in
    lesion_score: np.ndarray  # (L,) highest maximum that hits it; -1 if none does
    false_item: np.ndarray  # (F,) the item of each maximum that hits no lesion
    false_score: np.ndarray  # (F,)


def evaluate_localisation(
    heat: ArrayLike,
    masks: ArrayLike,
    patients: ArrayLike,
    centres: ArrayLike,
    class_names: Sequence[str],
    *,
    spacing_mm: float | Sequence[float],
    tolerance_mm: float = TOLERANCE_MM,
    false_hits: float = 1.0,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure for each disease how many lesions its heat map finds, and at the price of how many false hits.

    Parameters
    ----------
    heat : array_like, shape (N, D, V, h, w)
        Maps with values from 0 up of D diseases in V views; they may be coarser than the masks.
    masks : array_like of int, shape (N, V, H, W)
        Class index + 1 where a lesion of that class is, else 0.
    patients, centres : array_like, shape (N,)
        As in `evaluate_diseases`.
    class_names : sequence of str
        The D diseases.
    spacing_mm : float or (row, column)
        Of the masks' pixels.
    tolerance_mm : float
        A maximum this near to the centre of a pixel of a lesion hits it.
    false_hits : float
        False hits per image at which the share of lesions is told, at most 8.
    bootstrap, seed : int
        Resamples behind the intervals, and their seed.

    Returns
    -------
    dict
        JSON-able: `n`, `false_hits`, `tolerance_mm`, `intervals`, and `per_disease` with `lesions` (their number),
        `sensitivity` (share of lesions hit at `false_hits` per image, an estimate as in `evaluate_diseases`),
        `threshold` (of the heat, at which that is so) and `froc`: lists `threshold` (ascending), `sensitivity` and
        `false_hits`. A disease without lesions has no sensitivity.

    Raises
    ------
    MetricError
        Shapes do not fit together, maps are negative or not finite, or a number is out of range.

    Notes
    -----
    A lesion is a connected component (eight neighbours) of the mask in one view; the same lesion in two views counts
    twice, as two things to be found. A hit is a local maximum of the map in or near a lesion. Several hits of one
    lesion count once and are never false. An image is an item with all its views, and images without lesions count.
    The threshold is swept over the test's own maps, as is usual for a free-response curve (Bunch et al., J. Appl.
    Photogr. Eng. 1978;4:166): it tells what the maps can do, not what a threshold chosen beforehand would give.
    """
    heat, masks = _check_maps(heat, masks)
    names = check_class_names(class_names, heat.shape[1])
    patients = check_groups(patients, len(heat), "Patients")
    centres = check_groups(centres, len(heat), "Centres")
    if not tolerance_mm >= 0 or not 0 < false_hits <= RATES[-1]:
        raise MetricError(
            f"The tolerance is {tolerance_mm} mm and the false hits per image are {false_hits}; "
            f"expected 0 or more, and a number above 0 up to {RATES[-1]:g}."
        )
    spacing = np.broadcast_to(np.asarray(spacing_mm, dtype=float), 2)
    found = {name: find_hits(heat[:, d], masks == d + 1, spacing, tolerance_mm) for d, name in enumerate(names)}
    thresholds = {name: _thresholds(hits, len(heat)) for name, hits in found.items()}
    counts = {name: _counts(found[name], thresholds[name], len(heat)) for name in names}

    def statistic(weights: np.ndarray) -> Scores:
        result: Scores = {}
        for name in names:
            shares, false = froc(*counts[name], weights)
            first = (false <= false_hits).argmax(axis=1)  # the lowest threshold; at the highest there are none
            result["per_disease", name, "sensitivity"] = shares[np.arange(len(shares)), first]
        return result

    result = estimates(statistic, patients, centres, bootstrap, seed)
    del result["per_centre"], result["patients"]
    for name in names:
        shares, false = (curve[0] for curve in froc(*counts[name], np.ones((1, len(heat)))))
        result["per_disease"][name] |= {
            "lesions": len(found[name].lesion_item),
            "threshold": float(thresholds[name][(false <= false_hits).argmax()]),
            "froc": {
                "threshold": thresholds[name].tolist(),
                "sensitivity": None if np.isnan(shares).any() else shares.tolist(),
                "false_hits": false.tolist(),
            },
        }
    return {"n": len(heat), "false_hits": false_hits, "tolerance_mm": tolerance_mm} | result


def find_hits(heat: np.ndarray, lesions: np.ndarray, spacing_mm: np.ndarray, tolerance_mm: float) -> Hits:
    """Match the maxima of one disease's heat maps `(N, V, h, w)` with its lesions, bool `(N, V, H, W)`."""
    places, scores = heat_maxima(heat)
    # A map's pixel covers several of the mask's; its centre is meant.
    scale = np.array(lesions.shape[2:]) / heat.shape[2:]
    points = np.column_stack([places[:, 1] * FAR_MM, ((places[:, 2:] + 0.5) * scale - 0.5) * spacing_mm])
    first = np.searchsorted(places[:, 0], np.arange(len(heat) + 1))
    kept: list[Hits] = []
    for item in range(len(heat)):
        of = slice(first[item], first[item + 1])
        near = _near(points[of], lesions[item], spacing_mm, tolerance_mm)
        hit = np.where(near, scores[of, None], -1).max(axis=0, initial=-1)
        false = scores[of][~near.any(axis=1)]
        kept.append(Hits(np.full(len(hit), item), hit, np.full(len(false), item), false))
    return Hits(*map(np.concatenate, zip(*kept, strict=True)))


def heat_maxima(heat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places and values of all local maxima above 0 of maps `(N, V, h, w)`.

    Enlarging a map bilinearly makes no new maxima, so the map is searched as it is.

    Returns
    -------
    places : ndarray, shape (M, 4)
        Indices, those of the item ascending; the middle of a plateau.
    values : ndarray, shape (M,)
    """
    maps = heat.reshape(-1, *heat.shape[2:])
    top = (maps == ndimage.maximum_filter(maps, (1, 3, 3), mode="nearest")) & (maps > 0)
    plateau, number = ndimage.label(top, VIEWWISE)
    index = np.arange(1, number + 1)
    # A shoulder: its inner pixels are no lower than their neighbours, but one of these lies below something.
    outside = ndimage.maximum_filter(np.where(top, -np.inf, maps), (1, 3, 3), mode="nearest")
    peak = ~np.asarray(ndimage.maximum(top & (outside == maps), plateau, index), dtype=bool)
    picture, *within = np.array(ndimage.center_of_mass(top, plateau, index)).reshape(-1, 3)[peak].T
    places = np.column_stack([*np.divmod(picture.round(), heat.shape[1]), *within])
    return places, np.asarray(ndimage.maximum(maps, plateau, index), dtype=float)[peak]


def froc(hit: np.ndarray, lesions: np.ndarray, false: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of lesions hit and the false hits per image, both `(R, T)`, at T thresholds.

    Parameters
    ----------
    hit, false : ndarray, shape (N, T)
        Lesions hit and false hits of each item at each threshold.
    lesions : ndarray, shape (N,)
    weights : ndarray, shape (R, N)
    """
    return ratio(weights @ hit, (weights @ lesions)[:, None]), ratio(weights @ false, weights.sum(axis=1)[:, None])


def _near(points: np.ndarray, lesions: np.ndarray, spacing_mm: np.ndarray, tolerance_mm: float) -> np.ndarray:
    """Return which point (M, 3) in mm hits which lesion of an item, bool `(M, L)`."""
    component, number = ndimage.label(lesions, VIEWWISE)
    if not number:
        return np.zeros((len(points), 0), dtype=bool)
    pixels = np.argwhere(component)
    of = component[tuple(pixels.T)]
    order = np.argsort(of, kind="stable")
    distance = cdist(points, pixels[order] * (FAR_MM, *spacing_mm))
    starts = np.searchsorted(of[order], np.arange(1, number + 1))
    return np.minimum.reduceat(distance, starts, axis=1) <= tolerance_mm


def _thresholds(hits: Hits, items: int) -> np.ndarray:
    """Return the thresholds `(T,)`, ascending, at which there are at most `RATES` false hits per image."""
    above = np.append(np.nextafter(-np.sort(-hits.false_score), np.inf), 0)
    allowed = np.floor(RATES * items + 1e-9).astype(int)
    return np.unique(above[allowed.clip(max=len(hits.false_score))])


def _counts(hits: Hits, thresholds: np.ndarray, items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lesions = np.bincount(hits.lesion_item, minlength=items)
    return (
        _at_least(hits.lesion_item, hits.lesion_score, thresholds, items),
        lesions,
        _at_least(hits.false_item, hits.false_score, thresholds, items),
    )


def _at_least(item: np.ndarray, score: np.ndarray, thresholds: np.ndarray, items: int) -> np.ndarray:
    """Count for each item and threshold the scores that reach it `(N, T)`."""
    passed = np.zeros((items, len(thresholds) + 1))
    np.add.at(passed, (item, np.searchsorted(thresholds, score, side="right")), 1)
    return passed[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]


def _check_maps(heat: ArrayLike, masks: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    maps, lesions = np.asarray(heat, dtype=float), np.asarray(masks)
    fits = maps.ndim == 5 and lesions.ndim == 4 and len(maps) and maps.shape[::2][:2] == lesions.shape[:2]
    if not fits:
        raise MetricError(
            f"Heat maps of shape {maps.shape} and masks of shape {lesions.shape} do not fit together; expected "
            "(items, diseases, views, rows, columns) and (items, views, rows, columns)."
        )
    if not np.isfinite(maps).all() or (maps < 0).any():
        raise MetricError("Heat maps are negative or not finite; expected values from 0 up, such as 0 to 1.")
    return maps, lesions
