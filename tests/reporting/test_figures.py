import matplotlib as mpl
import numpy as np
import pytest
from sklearn.metrics import roc_curve

from scintikit.errors import ScintikitError
from scintikit.reporting import curves, figures


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_confusion_matrix_shows_counts_and_row_shares():
    (axes,) = figures.confusion_matrix([[3, 1], [0, 0]], ["a", "b"]).axes
    assert texts(axes) == ["3", "75%", "1", "25%", "0", "0%", "0", "0%"]
    assert axes.images[0].get_array().tolist() == [[0.75, 0.25], [0, 0]]
    assert axes.get_ylabel() == "true class"


def test_roc_curves_leave_out_what_cannot_be_drawn():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.3, 0.6, 0.1], [0.6, 0.3, 0.1]])
    (axes,) = curves.roc_curves(probabilities, [0, 1, 1, 1], ["a", "b", "absent"]).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    false_rate, true_rate, _ = roc_curve([1, 0, 0, 0], probabilities[:, 0])
    assert axes.lines[1].get_xdata().tolist() == false_rate.tolist()
    assert axes.lines[1].get_ydata().tolist() == true_rate.tolist()


def test_reliability_diagram_skips_empty_bins():
    curve = {"edges": [0, 0.5, 1], "count": [0, 4], "confidence": [None, 0.8], "accuracy": [None, 0.6]}
    upper, lower = figures.reliability_diagram(curve, "ECE 0.200").axes
    assert upper.lines[1].get_xydata().tolist() == [[0.8, 0.6]]
    assert [bar.get_height() for bar in lower.patches] == [0, 4]
    assert texts(upper) == ["ECE 0.200"]


def test_score_forest_draws_value_and_interval_and_leaves_out_what_is_none():
    entry, missing = {"value": 0.8, "low": 0.7, "high": 0.85}, {"value": None, "low": None, "high": None}
    (axes,) = figures.score_forest({"F": {"macro_f1": entry}, "H": {"macro_f1": missing}}, ["macro_f1"]).axes
    interval, point = axes.lines
    assert list(interval.get_xdata()) == [0.7, 0.85]
    assert list(point.get_xdata()) == [0.8]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["F", "H"]
    assert axes.get_title(loc="left") == "macro F1"


def test_set_sizes_draws_one_bar_per_size():
    (axes,) = figures.set_sizes([0, 30, 10]).axes
    assert [bar.get_height() for bar in axes.patches] == [0, 30, 10]
    assert "30\n75%" in texts(axes)


def test_error_gallery_shows_the_surest_mistakes_first():
    images = np.arange(4)[:, None, None] * np.ones((4, 8, 8))
    arguments = (images, ["p0", "p1", "p2", "p3"], list("abab"), list("bbba"), [0.6, 0.9, 0.8, 0.7])
    gallery = figures.error_gallery(*arguments, limit=2)
    assert [axes.get_title() for axes in gallery.axes] == ["p2\na\n→ b 0.80", "p3\nb\n→ a 0.70"]
    assert gallery.axes[0].images[0].get_array().max() == 2
    assert figures.error_gallery(images, list("pqrs"), list("abab"), list("abab"), np.ones(4)) is None


@pytest.mark.parametrize(("field", "cmap"), [("dark", "gray"), ("inverted", "gray_r")])
def test_sample_grid_fields_and_windows(field, cmap):
    image = np.full((1, 32, 32), 2.0)
    image[0, 0, 0] = 1000  # one hot pixel of 1024 must not set the window
    image[0, 1] = 10
    figure = figures.sample_grid(image, ["t"], field=field, heat=np.ones((1, 4, 4)), accents=["#009E73"])
    picture, heat = figure.axes[0].images
    assert picture.get_cmap().name == cmap
    assert (picture.norm.vmin, picture.norm.vmax) == (2, 10)
    assert list(heat.get_extent()) == [-0.5, 31.5, 31.5, -0.5]
    assert figures.figure_png(figure).startswith(b"\x89PNG")


def test_png_is_the_same_each_time_and_says_nothing_about_the_machine(tmp_path):
    def drawn():
        return figures.figure_png(figures.set_sizes([0, 3, 1]))

    assert drawn() == drawn()
    assert b"Software" not in drawn()
    figures.save_figure(figures.set_sizes([0, 3, 1]), tmp_path / "new" / "sets.png")
    assert (tmp_path / "new" / "sets.png").read_bytes() == drawn()


def test_matplotlib_settings_stay_as_they_were():
    before = dict(mpl.rcParams)
    figures.figure_png(figures.confusion_matrix([[3, 1], [0, 0]], ["a", "b"]))
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("images", "titles", "options", "message"),
    [
        (np.zeros((0, 8, 8)), [], {}, "at least one"),
        (np.zeros((8, 8)), ["t"], {}, "shape"),
        (np.zeros((2, 8, 8)), ["t"], {}, "titles"),
        (np.zeros((1, 8, 8)), ["t"], {"accents": ["#000000"] * 2}, "accents"),
        (np.zeros((1, 8, 8)), ["t"], {"heat": np.zeros((2, 8, 8))}, "Heat"),
        (np.zeros((1, 8, 8)), ["t"], {"field": "grey"}, "dark"),
    ],
)
def test_unusable_pictures_are_refused(images, titles, options, message):
    with pytest.raises(ScintikitError, match=message):
        figures.sample_grid(images, titles, **options)
