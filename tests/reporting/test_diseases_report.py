import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import precision_recall_curve, roc_curve

from scintikit.errors import ScintikitError
from scintikit.metrics import evaluate_diseases, evaluate_localisation
from scintikit.reporting import (
    curves,
    diseases,
    diseases_report,
    diseases_table,
    enlarge,
    figures,
    interval_text,
    overlay_png,
    side_by_side,
)

DISEASES = ["metastasis", "arthritis"]
THRESHOLDS = (0.5, 0.4)


def case(items=32):
    generator = np.random.default_rng(0)
    labels = np.stack([np.arange(items) % 2, np.arange(items) // 2 % 2], axis=1)
    probabilities = 1 / (1 + np.exp(-(generator.normal(size=(items, 2)) + 3 * labels - 1.5)))
    centres = np.array(["F", "H"])[np.arange(items) // 4 % 2]
    images = generator.poisson(3, (items, 2, 32, 16))
    images[:, :, 12:20] += 40  # the body
    masks = np.zeros((items, 2, 32, 16), dtype=np.uint8)
    masks[:, 0, 12, 4], masks[:, 1, 18, 8] = labels[:, 0], 2 * labels[:, 1]
    heat = generator.random((items, 2, 2, 8, 4))
    metrics = evaluate_diseases(probabilities, labels, THRESHOLDS, np.arange(items), centres, DISEASES, bootstrap=20)
    metrics["localisation"] = evaluate_localisation(
        heat, masks, np.arange(items), centres, DISEASES, spacing_mm=4.6, bootstrap=20
    )
    ids = [f"patient {n}" for n in range(items)]
    table = diseases_table(ids, probabilities, DISEASES, THRESHOLDS, labels=labels, centres=centres)
    return metrics, table, images, heat, masks


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    metrics, table, images, heat, masks = case()
    folder = tmp_path_factory.mktemp("report")
    path = diseases_report(folder, metrics, table, images, heat, masks, {"dataset": "abc"}, title="bones")
    return folder, path.read_text(encoding="utf-8"), metrics


def test_pictures_come_first_and_numbers_agree_with_the_metrics(reported):
    folder, text, metrics = reported
    assert text.index("<img") < text.index("<table")
    assert len(list((folder / "figures").glob("*.png"))) == text.count("<img") == 8
    assert "true lesions are circled" in text
    for entry in (
        metrics["overall"]["macro_sensitivity"],
        metrics["per_class"]["normal"]["specificity"],
        metrics["per_centre"]["H"]["auc"]["arthritis"],
        metrics["localisation"]["per_disease"]["metastasis"]["sensitivity"],
    ):
        assert interval_text(entry) in text
    cells = re.findall(r"<t[dh].*?>(.*?)</t[dh]>|<dd>(.*?)<", text)
    assert not [cell for pair in cells for cell in pair if "nan" in cell.lower()]


def test_report_without_pictures_localisation_or_intervals(tmp_path):
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2]])
    labels = [[1, 0], [1, 0]]
    metrics = evaluate_diseases(probabilities, labels, THRESHOLDS, list("pq"), list("AA"), DISEASES, bootstrap=0)
    table = diseases_table(list("pq"), probabilities, DISEASES, THRESHOLDS, labels=labels)
    text = diseases_report(tmp_path, metrics, table).read_text(encoding="utf-8")
    assert "n/a" in text
    assert not (tmp_path / "figures" / "examples.png").exists()
    assert not (tmp_path / "figures" / "froc.png").exists()


def test_examples_have_a_blank_panel_then_one_for_each_disease():
    metrics, table, images, heat, masks = case()
    heat[:, 1] = 0
    grid = diseases._examples(table, metrics, images, heat, masks).image
    assert len(grid.axes) == 4 * 2 * 3  # sets of diseases, examples, panels
    plain, metastasis, arthritis = grid.axes[:3]
    assert plain.images[0].get_array().shape == (10, 32)  # views beside each other, rows of the body and a margin
    assert plain.images[0].get_cmap().name == "gray_r"
    assert [axes.images[1].get_array().max() > 0 for axes in (plain, metastasis, arthritis)] == [False, True, False]
    assert plain.get_title() == "normal\n✓"
    assert metastasis.get_title().startswith("metastasis\n0.")
    both = grid.axes[-6:-3]  # the surest right answer for a patient with both
    assert both[0].get_title() == "metastasis + arthritis\n✓"
    circles = [axes.collections[0].get_offsets().tolist() if axes.collections else [] for axes in both]
    assert circles == [[], [[4, 1]], [[24, 7]]]


def test_curves_are_those_of_each_disease():
    table = case()[1]
    probabilities = table[["p_metastasis", "p_arthritis"]].to_numpy()
    labels = np.stack([table["label"].str.contains(name) for name in DISEASES], axis=1).astype(int)
    (axes,) = curves.roc_curves(probabilities, labels, DISEASES).axes
    for line, disease in zip(axes.lines[1:], range(2), strict=True):
        false_rate, true_rate, _ = roc_curve(labels[:, disease], probabilities[:, disease])
        assert line.get_xydata().tolist() == np.column_stack([false_rate, true_rate]).tolist()
    (axes,) = curves.precision_recall_curves(probabilities, labels * (1, 0), DISEASES, {"metastasis": "0.9"}).axes
    guessing, curve = axes.lines
    assert guessing.get_ydata()[0] == labels[:, 0].mean()
    precision, sensitivity, _ = precision_recall_curve(labels[:, 0], probabilities[:, 0])
    assert curve.get_xydata().tolist() == np.column_stack([sensitivity, precision]).tolist()
    found = {"a": {"false_hits": [2, 0], "sensitivity": [1, 0.5]}, "b": {"false_hits": [0], "sensitivity": None}}
    (axes,) = curves.froc_curves(found, 1.0).axes
    assert axes.lines[1].get_xydata().tolist() == [[2, 1], [0, 0.5]]
    assert len(axes.lines) == 2


def test_heat_of_a_grid_can_share_one_scale():
    maps = np.ones((2, 2, 2)) * [[[1]], [[0.5]]]
    figure = figures.sample_grid(np.ones((2, 8, 8)), ["a", "b"], heat=maps, heat_max=1)
    assert [axes.images[1].get_array().max() for axes in figure.axes[:2]] == [1, 0.5]


def test_overlay_has_one_panel_more_than_maps_and_titles_above():
    image, heat = np.full((8, 4), 0.5), np.zeros((2, 8, 4))
    heat[1] = 1
    plain = np.asarray(Image.open(io.BytesIO(overlay_png(image, heat, 1, field="inverted"))).convert("RGB"))
    assert plain.shape == (8, 12, 3)
    assert (plain[:, :8] == 128).all()
    assert plain[0, 11].tolist() == [204, 51, 51]  # red
    titled = Image.open(io.BytesIO(overlay_png(image, heat, 2, field="inverted", titles=["a", "b", "c"])))
    assert titled.height > 16
    assert np.asarray(titled)[: titled.height - 16].min() < 128  # letters


def test_views_are_put_side_by_side_and_maps_enlarged_like_the_network_sees_them():
    views = np.arange(2 * 2 * 3 * 2).reshape(2, 2, 3, 2)
    assert side_by_side(views)[1, 0].tolist() == [12, 13, 18, 19]
    maps = np.random.default_rng(0).random((3, 4, 2))
    expected = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], (16, 8), mode="bilinear")[0]
    assert enlarge(maps, (16, 8)) == pytest.approx(expected.numpy())


def test_table_names_what_is_true_and_what_is_called():
    table = diseases_table(["x", "y"], [[0.5, 0.3], [0.2, 0.1]], DISEASES, THRESHOLDS, labels=[[1, 1], [0, 0]])
    assert table.to_dict("list") == {
        "id": ["x", "y"],
        "label": ["metastasis | arthritis", "normal"],
        "called": ["metastasis", "normal"],
        "p_metastasis": [0.5, 0.2],
        "p_arthritis": [0.3, 0.1],
    }


def test_unusable_input_is_refused(tmp_path):
    metrics, table, images, heat, masks = case()
    with pytest.raises(ScintikitError, match="one row per id"):
        diseases_table(["x"], [[0.5, 0.3]], DISEASES, THRESHOLDS, labels=[[1, 0], [0, 0]])
    with pytest.raises(ScintikitError, match="called"):
        diseases_report(tmp_path, metrics, table.drop(columns="called"))
    with pytest.raises(ScintikitError, match="31 predictions"):
        diseases_report(tmp_path, metrics, table[1:])
    with pytest.raises(ScintikitError, match="31 heat"):
        diseases_report(tmp_path, metrics, table, images, heat[1:])
    with pytest.raises(ScintikitError, match="31 masks"):
        diseases_report(tmp_path, metrics, table, images, heat, masks[1:])
    assert not list(tmp_path.iterdir())
