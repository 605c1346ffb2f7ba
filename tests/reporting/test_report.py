import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from scintikit.errors import ScintikitError
from scintikit.files import file_sha256
from scintikit.metrics import conformal_sets, evaluate_classifier
from scintikit.reporting import (
    Picture,
    Table,
    classification_report,
    figure_png,
    interval_text,
    predictions_table,
    save_figure,
    write_report,
)

HOSTILE = '<script>alert("x")</script> & $a_1'


class Page(HTMLParser):
    """Collects pictures, their alternative texts, tags and everything that points elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.pictures, self.alts, self.tags, self.links = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.links += [attributes[name] for name in ("href", "src", "data", "action") if name in attributes]
        if tag == "img":
            self.pictures.append(base64.b64decode(attributes["src"].removeprefix("data:image/png;base64,")))
            self.alts.append(attributes["alt"])


def small_figure(value=1):
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, value])
    return figure


def case(names, items=60):
    generator = np.random.default_rng(0)
    labels = np.arange(items) % len(names)
    logits = generator.normal(size=(items, len(names))) + 1.5 * np.eye(len(names))[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    centres = np.array(["F", "H", "I"])[generator.integers(0, 3, items)]
    metrics = evaluate_classifier(
        probabilities, labels, np.arange(items), centres, names, conformal_threshold=0.8, bootstrap=50
    )
    sets = conformal_sets(probabilities, 0.8)
    ids = [f"{centre}_{number:04d}" for number, centre in enumerate(centres)]
    table = predictions_table(ids, probabilities, names, labels=labels, centres=centres, sets=sets)
    return metrics, table, generator.poisson(5, (items, 16, 16)), generator.random((items, 4, 4))


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    metrics, table, images, overlays = case([HOSTILE, "nodular goiter", "normal"])
    folder = tmp_path_factory.mktemp("report")
    path = classification_report(
        folder, metrics, table, images, overlays, {"dataset": "abc", "nested": {"seed": 0}}, title=HOSTILE
    )
    return folder, path, path.read_text(encoding="utf-8"), metrics, table


def test_all_pictures_are_files_and_inside_the_page_with_alternative_texts(reported):
    folder, path, text, _, _ = reported
    assert path == folder / "report.html"
    files = sorted((folder / "figures").glob("*.png"))
    assert [file.stem for file in files] == [
        "attention", "centres", "confusion", "errors", "examples", "reliability", "roc", "sets",
    ]  # fmt: skip
    page = Page(text)
    assert sorted(page.pictures) == sorted(file.read_bytes() for file in files)
    assert all(len(alt) > 20 for alt in page.alts)
    assert page.pictures[0] == (folder / "figures" / "examples.png").read_bytes()


def test_page_needs_nothing_from_elsewhere_and_no_script(reported):
    page = Page(reported[2])
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    style = re.search(r"<style>(.*?)</style>", reported[2], re.DOTALL).group(1)
    assert "url(" not in style
    assert "@import" not in style
    assert "://" not in reported[2]
    assert not {"script", "link", "iframe", "object"} & set(page.tags)


def test_html_in_names_is_text(reported):
    text = reported[2]
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text


def test_pictures_come_before_tables_and_numbers_agree_with_the_metrics(reported):
    _, _, text, metrics, _ = reported
    assert text.index("<img") < text.index("<table")
    assert interval_text(metrics["per_class"]["normal"]["auc"]) in text
    assert interval_text(metrics["per_centre"]["H"]["macro_f1"]) in text
    assert f"{metrics['overall']['macro_f1']['value']:.2f}" in text
    assert "Research use only; not a medical device." in text
    assert "{&#34;seed&#34;: 0}" in text


def test_reports_of_the_same_are_the_same_to_the_byte(tmp_path):
    metrics, table, _, _ = case(["a", "b", "c"])
    first = file_sha256(classification_report(tmp_path / "1", metrics, table))
    assert file_sha256(classification_report(tmp_path / "2", metrics, table)) == first


def test_report_without_pictures_mistakes_sets_or_intervals(tmp_path):
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    metrics = evaluate_classifier(probabilities, [0, 0, 0], list("pqr"), list("AAA"), ["a", "b"], bootstrap=0)
    table = predictions_table(list("pqr"), probabilities, ["a", "b"], labels=[0, 0, 0])
    text = classification_report(tmp_path / "plain", metrics, table).read_text(encoding="utf-8")
    assert "n/a" in text
    cells = re.findall(r"<t[dh].*?>(.*?)</t[dh]>|<dd>(.*?)<", text)
    assert not [cell for pair in cells for cell in pair if "nan" in cell.lower()]
    classification_report(tmp_path / "pictures", metrics, table, np.zeros((3, 8, 8)), field="inverted")
    assert not (tmp_path / "pictures" / "figures" / "errors.png").exists()


def test_write_report_takes_figures_files_and_bytes(tmp_path):
    save_figure(small_figure(2), tmp_path / "file.png")
    pictures = [
        ("a figure", small_figure(1)),
        ("a file", tmp_path / "file.png"),
        Picture("bytes", figure_png(small_figure(3)), alt="three rising"),
    ]
    path = write_report(
        tmp_path / "r.html",
        title="t",
        headline=[("macro F1", "0.81", "0.77 to 0.85"), ("n", "3")],
        figures=pictures,
        tables=[Table("scores", ["class", "F1"], [["normal", "0.73"]])],
        notes=["a note"],
        warning="",
    )
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.pictures == [figure_png(small_figure(value)) for value in (1, 2, 3)]
    assert page.alts == ["a figure", "a file", "three rising"]
    assert '<th scope="row">normal</th><td>0.73</td>' in text
    assert "not a medical device" not in text


def test_interval_text():
    assert interval_text({"value": 0.781, "low": 0.744, "high": 0.82}) == "0.78 (0.74\u20130.82)"
    assert interval_text({"value": 0.781, "low": None, "high": None}, 3) == "0.781"
    assert interval_text({"value": None, "low": None, "high": None}) == "n/a"


def test_predictions_table_has_one_row_per_image():
    table = predictions_table(
        ["x", "y"], [[0.6, 0.4], [0.1, 0.9]], ["a", "b"], labels=[1, 1], sets=[[1, 1], [0, 1]], ood_scores=[3.5, 9]
    )
    assert table.to_dict("list") == {
        "id": ["x", "y"],
        "label": ["b", "b"],
        "prediction": ["a", "b"],
        "probability": [0.6, 0.9],
        "p_a": [0.6, 0.1],
        "p_b": [0.4, 0.9],
        "set": ["a | b", "b"],
        "ood_score": [3.5, 9.0],
    }


def test_unusable_input_is_refused(tmp_path):
    metrics, table, images, overlays = case(["a", "b", "c"])
    with pytest.raises(ScintikitError, match="one row per id"):
        predictions_table(["x"], [[0.6, 0.4]], ["a", "b"], labels=[0, 1])
    with pytest.raises(ScintikitError, match="p_b"):
        classification_report(tmp_path, metrics, table.drop(columns="p_b"))
    with pytest.raises(ScintikitError, match="labels"):
        classification_report(tmp_path, metrics, table.assign(label="other"))
    with pytest.raises(ScintikitError, match="pictures"):
        classification_report(tmp_path, metrics, table, images[1:])
    with pytest.raises(ScintikitError, match="overlays"):
        classification_report(tmp_path, metrics, table, images, overlays[1:])
    with pytest.raises(ScintikitError, match="59 predictions"):
        classification_report(tmp_path, metrics, table[1:])
    with pytest.raises(ScintikitError, match="not a PNG"):
        write_report(tmp_path / "r.html", title="t", figures=[("c", b"GIF89a")])
    assert not list(tmp_path.iterdir())
