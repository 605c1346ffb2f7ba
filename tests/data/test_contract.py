import json
import os
import re
import time

import pytest
import torch
from jsonschema import Draft202012Validator
from monai.data import load_decathlon_datalist

from scintikit.data import (
    class_weights,
    item_id,
    label_names,
    load_datalist,
    load_dataset,
    positive_weights,
)
from scintikit.data.contract import _validator
from scintikit.errors import DatasetError


@pytest.fixture
def good(write, item):
    return write(
        training=[item("A_1") | {"mask": "masks/A_1.nii.gz"}, item("fm_1", kind="fm", source="A_1")],
        validation=[item("A_2", 1)],
        test=[item("B_1", 1, centre="B")],
    )


def edit(root, change):
    content = json.loads((root / "dataset.json").read_text())
    change(content)
    (root / "dataset.json").write_text(json.dumps(content))


def test_normal_is_no_disease_beside_others(write, item):
    root = write(labels=("metastasis", "Normal"), training=[item("A_1", [1, 0])])
    with pytest.raises(DatasetError, match=r"'normal' is one of its several diseases.*--negative normal"):
        load_dataset(root)


def test_a_good_dataset_is_read_whole(good):
    dataset = load_dataset(good)
    assert dataset.labels == {0: "goiter", 1: "normal"}
    assert not dataset.multi_label
    assert [len(items) for items in dataset.splits.values()] == [2, 1, 1]
    assert label_names(good) == ["goiter", "normal"]
    first = load_datalist(good, "training")[0]
    assert first["image"] == str(good / "images/A_1.dcm")
    assert first["mask"] == str(good / "masks/A_1.nii.gz")


def test_monai_reads_the_same_images(good):
    for split in ("training", "validation", "test"):
        items = load_decathlon_datalist(good / "dataset.json", is_segmentation=False, data_list_key=split)
        assert [item["image"] for item in items] == [item["image"] for item in load_datalist(good, split)]


def test_schema_is_valid_and_describes_every_field():
    schema = _validator().schema
    Draft202012Validator.check_schema(schema)
    for owner in (schema, schema["$defs"]["item"], schema["$defs"]["origin"]):
        assert [name for name, field in owner["properties"].items() if not field.get("description")] == []


def test_hash_follows_the_list_and_the_files(good):
    before = load_dataset(good).sha256
    assert load_dataset(good).sha256 == before
    (good / "masks/A_1.nii.gz").write_text("other")
    changed = load_dataset(good).sha256
    edit(good, lambda content: content.update(name="other"))
    assert len({before, changed, load_dataset(good).sha256}) == 3


def set_in(split, number, **fields):
    return lambda content: content[split][number].update(fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_in("test", 0, image="images/none.dcm"), "'images/none.dcm' is missing"),
        (set_in("test", 0, image="../d2/B_1.dcm"), "not a relative path inside the dataset"),
        (set_in("test", 0, image="/etc/hostname"), "not a relative path inside the dataset"),
        (set_in("test", 0, image="C:/B_1.dcm"), "not a relative path inside the dataset"),
        (set_in("test", 0, image="images\\B_1.dcm"), "not a relative path inside the dataset"),
        (set_in("test", 0, image="images"), "not an ordinary file"),
        (set_in("test", 0, image="."), "not a relative path inside the dataset"),
        (set_in("test", 0, image="images/\0.dcm"), "not a relative path inside the dataset"),
        (set_in("test", 0, label=2), "unknown label 2; known are 0 'goiter', 1 'normal'"),
        (set_in("test", 0, label=[0, 1, 0]), "a list of 3 labels"),
        (set_in("test", 0, label=[0, 1]), "use one form for all"),
        (set_in("test", 0, label=-1), r"test\[0\].label \(image 'images/B_1.dcm'\)"),
        (set_in("test", 0, label="normal"), r"test\[0\].label \(image 'images/B_1.dcm'\)"),
        (set_in("test", 0, patient="A_1"), "'A_1'.* is also in training"),
        (set_in("test", 0, patient=""), r"test\[0\].patient"),
        (set_in("test", 0, image="masks/A_1.nii.gz"), "two items have the id 'A_1'"),
        (set_in("test", 0, origin={"kind": "gan"}), "is synthetic .gan.; .* move it to training"),
        (set_in("test", 0, origin={"kind": "vae"}), r"test\[0\].origin.kind .*'vae' is not one of"),
        (set_in("test", 0, colour="red"), "'colour' was unexpected"),
        (set_in("training", 1, origin={"kind": "fm", "source": "B_1"}), "made from 'B_1', which is in test"),
        (lambda content: content.update(labels={"0": "a", "2": "b"}), "from 0 without a gap"),
        (lambda content: content.update(labels={"0": "a", "1": "a"}), "two labels have the same name"),
        (lambda content: content.update(training=[], validation=[], test=[]), "has no items"),
        (lambda content: content.pop("licence"), "'licence' is a required property"),
        (lambda content: content["training"][0].pop("origin"), r"training\[0\] \(image 'images/A_1.dcm'\): 'origin'"),
    ],
)
def test_each_broken_rule_is_named(good, change, words):
    edit(good, change)
    with pytest.raises(DatasetError, match=f"{re.escape(str(good))}.*{words}"):
        load_dataset(good)


def test_empty_and_linked_files_are_refused(good, tmp_path):
    image = good / "images/B_1.dcm"
    image.write_bytes(b"")
    with pytest.raises(DatasetError, match="is empty"):
        load_dataset(good)
    (tmp_path / "outside").write_text("x")
    image.unlink()
    image.symlink_to(tmp_path / "outside")
    with pytest.raises(DatasetError, match="link to outside"):
        load_dataset(good)


def test_unreadable_file_is_refused(good, monkeypatch):
    if os.geteuid() == 0:  # the superuser may read every file
        monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("B_1.dcm"))
    (good / "images/B_1.dcm").chmod(0)
    with pytest.raises(DatasetError, match="permissions"):
        load_dataset(good)


def test_folder_without_dataset_or_with_broken_json(tmp_path, good):
    with pytest.raises(DatasetError, match="is not a dataset"):
        load_dataset(tmp_path / "nowhere")
    (good / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="cannot be read as JSON"):
        load_dataset(good)


def test_source_in_another_dataset_is_allowed(write, item):
    dataset = load_dataset(write(training=[item("fm_1", patient="A_9", kind="fm", source="A_9")]))
    assert dataset.splits["training"][0]["origin"]["source"] == "A_9"


def test_unknown_or_empty_split(write, item):
    root = write(training=[item("A_1")])
    with pytest.raises(DatasetError, match="no split 'train'"):
        load_datalist(root, "train")
    with pytest.raises(DatasetError, match=r"class_names is 'a,b'; expected a list: --class_names"):
        load_datalist(root, "training", "a,b")
    with pytest.raises(DatasetError, match="'test' has no items"):
        load_datalist(root, "test")


def test_item_id_drops_one_suffix_and_gz(item):
    assert item_id({"image": "images/A_1.nii.gz"}) == "A_1"
    assert item_id({"image": "images/1.2.840.dcm"}) == "1.2.840"


def test_three_thousand_items_load_quickly(write, item):
    root = write(training=[item(f"A_{n}") | {"mask": f"masks/A_{n}.nii.gz"} for n in range(3000)])
    start = time.process_time()
    load_dataset(root)
    assert time.process_time() - start < 3  # about 0.4 on a quiet machine


def test_class_weights_are_inverse_frequency_with_mean_one(write, item):
    items = [item(f"A_{n}", label) for n, label in enumerate([0, 0, 0, 1])]
    expected = torch.tensor([0.5, 1.5])
    assert torch.equal(class_weights(items, 2), expected)
    assert torch.equal(class_weights(write(training=items, test=[item("B_1", 1)])), expected)
    with pytest.raises(DatasetError, match=r"class \[2\]"):
        class_weights(items, 3)


def test_positive_weights_are_negatives_over_positives(item):
    items = [item(f"A_{n}", label) for n, label in enumerate([[1, 0], [1, 1], [1, 0], [0, 0]])]
    assert torch.allclose(positive_weights(items, 2), torch.tensor([1 / 3, 3.0]))
    with pytest.raises(DatasetError, match="use positive_weights"):
        class_weights(items, 2)
    with pytest.raises(DatasetError, match=r"no negative item for class \[0\]"):
        positive_weights(items[:3], 2)


def test_multi_label_dataset(write, item):
    assert load_dataset(
        write(labels=("goiter", "nodule"), training=[item("A_1", [0, 1])], test=[item("A_2", [0, 0])])
    ).multi_label
