import pytest

from scintikit.data import compose, load_dataset
from scintikit.errors import DatasetError


def ids(dataset, split="training"):
    return [item["image"] for item in dataset.splits[split]]


@pytest.fixture
def original(write, item):
    return write(
        "original",
        training=[item("A_1") | {"mask": "masks/A_1.nii.gz", "prompt": "a gland"}],
        validation=[item("A_2", 1)],
        test=[item("B_1", 1)],
    )


def test_original_and_synthetic_become_one(original, write, item, tmp_path):
    fm = write("fm", training=[item("fm_1", patient="A_1", kind="fm", source="A_1", seed=3, settings={"steps": 10})])
    merged = load_dataset(compose([original, fm], tmp_path / "m"))
    assert ids(merged) == ["images/A_1.dcm", "images/fm_1.dcm"]
    assert merged.splits["training"] == [
        *load_dataset(original).splits["training"],
        *load_dataset(fm).splits["training"],
    ]
    assert ids(merged, "test") == ["images/B_1.dcm"]
    for path in ("images/A_1.dcm", "masks/A_1.nii.gz"):
        assert (merged.root / path).samefile(original / path)


def test_copies_and_links_hold_the_same(original, tmp_path):
    copied, linked = (compose([original], tmp_path / str(link), link=link) for link in (False, True))
    assert not (copied / "images/A_1.dcm").samefile(original / "images/A_1.dcm")
    assert load_dataset(copied).sha256 == load_dataset(linked).sha256


def test_clashing_ids_are_renamed_and_sources_follow(original, write, item, tmp_path):
    second = write(
        "second",
        training=[
            item("A_1", patient="C_1"),
            item("A_1_2", patient="C_2"),
            item("aug", patient="C_1", kind="augmented", source="A_1"),
        ],
    )
    merged = load_dataset(compose([original, second], tmp_path / "m"))
    assert ids(merged) == ["images/A_1.dcm", "images/A_1_3.dcm", "images/A_1_2.dcm", "images/aug.dcm"]
    assert (merged.root / "images/A_1_3.dcm").read_text() == "secondimages/A_1.dcm"
    assert merged.splits["training"][3]["origin"]["source"] == "A_1_3"


def test_ambiguous_source_is_an_error(original, write, item, tmp_path):
    second = write("second", training=[item("A_1", patient="C_1")])
    fm = write("fm", training=[item("fm_1", kind="fm", source="A_1")])
    with pytest.raises(DatasetError, match=r"several datasets have that item.*first compose"):
        compose([original, second, fm], tmp_path / "m")
    merged = compose([compose([original, fm], tmp_path / "step"), second], tmp_path / "m")
    assert load_dataset(merged).splits["training"][1]["origin"]["source"] == "A_1"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"labels": ("normal", "goiter")}, "differ in labels"),
        ({"modality": "PT"}, "differ in modality"),
    ],
)
def test_datasets_must_be_alike(original, write, item, tmp_path, other, words):
    with pytest.raises(DatasetError, match=words):
        compose([original, write("other", training=[item("Z_1")], **other)], tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_leaks_between_datasets_are_refused_before_anything_is_written(original, write, item, tmp_path):
    same_patient = write("same", training=[item("Z_1", patient="B_1")])
    with pytest.raises(DatasetError, match=r"'B_1'.* is in training of .*same and in test of .*original"):
        compose([original, same_patient], tmp_path / "m")
    from_test = write("fm", training=[item("fm_1", kind="fm", source="B_1")])
    with pytest.raises(DatasetError, match="made from 'B_1', which is in test"):
        compose([original, from_test], tmp_path / "m")
    with pytest.raises(DatasetError, match="are the same"):
        compose([original, original], tmp_path / "m")
    with pytest.raises(DatasetError, match="nothing to compose"):
        compose([], tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_the_same_picture_twice_is_an_error(original, write, item, tmp_path):
    other = write("other", training=[item("C_1")])
    both = compose([original, other], tmp_path / "both")
    with pytest.raises(DatasetError, match=r"'images/C_1.dcm' .* is also in .*both"):
        compose([both, other], tmp_path / "m")


def test_the_same_picture_under_another_id_is_an_error(write, item, tmp_path):
    first, second = (
        write("first", training=[item("x", patient="P")]),
        write("second", training=[item("x", patient="Q")]),
    )
    (second / "images/x.dcm").write_bytes(b"another picture")
    both = compose([first, second], tmp_path / "both")
    for part in (first, second):
        with pytest.raises(DatasetError, match=r"'images/x.dcm' .* is also in .*both"):
            compose([both, part], tmp_path / "m")
