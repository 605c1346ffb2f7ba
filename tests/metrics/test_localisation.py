import json

import numpy as np
import pytest

from scintikit.errors import ScintikitError
from scintikit.metrics import evaluate_localisation
from scintikit.metrics.localisation import heat_maxima


def blank(items=1, diseases=1):
    """Maps of 8 x 4 over masks of 32 x 16: a pixel of a map covers 4 x 4 of the mask's."""
    return np.zeros((items, diseases, 2, 8, 4)), np.zeros((items, 2, 32, 16), dtype=np.uint8)


def measure(heat, masks, **options):
    names = ["metastasis", "arthritis"][: heat.shape[1]]
    settings = {"spacing_mm": 1.0, "tolerance_mm": 1.0, "bootstrap": 0} | options
    return evaluate_localisation(heat, masks, range(len(heat)), ["A"] * len(heat), names, **settings)


def share(result, name="metastasis"):
    return result["per_disease"][name]["sensitivity"]["value"]


def test_maxima_are_found_once_and_shoulders_are_none():
    heat = np.zeros((2, 2, 6, 6))
    heat[0, 0, 1, 1] = 0.5
    heat[0, 1, 2:4, 2:4] = 0.7  # a plateau
    heat[1, 0, :, :5] = 0.2  # the shoulder of what follows
    heat[1, 0, 3, 5] = 0.9
    places, values = heat_maxima(heat)
    assert places.tolist() == [[0, 0, 1, 1], [0, 1, 2.5, 2.5], [1, 0, 3, 5]]
    assert values.tolist() == [0.5, 0.7, 0.9]
    assert len(heat_maxima(np.zeros((1, 2, 4, 4)))[1]) == 0


def test_lesions_count_by_view_and_a_map_of_one_disease_does_not_find_the_other():
    heat, masks = blank(diseases=2)
    masks[0, 0, 8:12, 4:8] = 1
    masks[0, 1, 8:12, 4:8] = 1  # the same place in the other view is another lesion
    masks[0, 1, 20:24, 12:16] = 2
    heat[0, 0, 0, 2, 1] = 0.8  # over the lesion of the first view
    heat[0, 1, 1, 2, 1] = 0.9  # arthritis seen where the metastasis is
    result = measure(heat, masks)
    assert result["per_disease"]["metastasis"]["lesions"] == 2
    assert share(result) == 0.5
    assert result["per_disease"]["metastasis"]["froc"]["false_hits"] == [0]
    assert share(result, "arthritis") == 0
    assert max(result["per_disease"]["arthritis"]["froc"]["false_hits"]) == 1


def test_tolerance_is_in_millimetres_of_the_mask():
    heat, masks = blank()
    masks[0, 0, 8:10, 4:8] = 1
    heat[0, 0, 0, 4, 1] = 1  # its centre lies at row 17.5, 8.5 rows below the lesion
    assert share(measure(heat, masks, spacing_mm=(2.0, 1.0), tolerance_mm=16)) == 0
    assert share(measure(heat, masks, spacing_mm=(2.0, 1.0), tolerance_mm=18)) == 1
    masks[0, 0, 8, 8] = 1  # touches by a corner: still one lesion
    masks[0, 0, 7, 9] = 1
    assert measure(heat, masks)["per_disease"]["metastasis"]["lesions"] == 1


def test_curve_and_the_share_at_one_false_hit_per_image():
    heat, masks = blank(items=2)
    masks[:, 0, 0:4, 0:4] = 1
    heat[0, 0, 0, 0, 0], heat[1, 0, 0, 0, 0] = 0.9, 0.3  # hits
    heat[0, 0, 1, ::2, 0] = 0.8, 0.7, 0.6, 0.5  # false
    result = measure(heat, masks)["per_disease"]["metastasis"]
    curve = dict(zip(result["froc"]["false_hits"], result["froc"]["sensitivity"], strict=True))
    assert curve == {2: 1, 1.5: 0.5, 1: 0.5, 0.5: 0.5, 0: 0.5}
    assert result["sensitivity"]["value"] == 0.5
    assert 0.6 < result["threshold"] <= 0.7
    assert measure(heat, masks, false_hits=2)["per_disease"]["metastasis"]["sensitivity"]["value"] == 1
    two = np.where(heat == 0.7, 0.0, heat)  # 0.6 and 0.8 remain above: fewer false hits, the rest as before
    assert max(measure(two, masks)["per_disease"]["metastasis"]["froc"]["false_hits"]) == 1.5


def test_intervals_by_patient_and_json():
    generator = np.random.default_rng(0)
    heat, masks = blank(items=40)
    rows = generator.integers(0, 8, 40)
    for item, row in enumerate(rows):
        masks[item, 0, 4 * row : 4 * row + 4, 0:4] = 1
        heat[item, 0, 0, row if item % 2 else (row + 4) % 8, 0] = generator.random()
    result = measure(heat, masks, bootstrap=200)
    json.dumps(result, allow_nan=False)
    entry = result["per_disease"]["metastasis"]["sensitivity"]
    assert entry["value"] == 0.5
    assert 0.3 < entry["low"] < 0.45
    assert 0.55 < entry["high"] < 0.7
    assert result["intervals"]["resamples"] == 200
    together = evaluate_localisation(
        heat, masks, ["p"] * 40, ["A"] * 40, ["metastasis"], spacing_mm=1, tolerance_mm=1, bootstrap=200
    )
    assert together["per_disease"]["metastasis"]["sensitivity"]["low"] is None


def test_without_lesions_nothing_is_measured():
    heat, masks = blank()
    result = measure(heat, masks)["per_disease"]["metastasis"]
    assert (result["lesions"], result["sensitivity"]["value"], result["froc"]["sensitivity"]) == (0, None, None)


def test_unusable_input_is_refused():
    heat, masks = blank(2)
    with pytest.raises(ScintikitError, match="do not fit together"):
        measure(heat, masks[:1])
    with pytest.raises(ScintikitError, match="do not fit together"):
        measure(heat, masks[:, :1])
    with pytest.raises(ScintikitError, match="negative or not finite"):
        measure(heat - 1, masks)
    with pytest.raises(ScintikitError, match="tolerance is -1"):
        measure(heat, masks, tolerance_mm=-1)
    with pytest.raises(ScintikitError, match="up to 8"):
        measure(heat, masks, false_hits=9)
