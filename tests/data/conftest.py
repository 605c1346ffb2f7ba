import json

import pytest


def make_item(name, label=0, patient=None, centre="A", folder="images", **origin):
    return {
        "image": f"{folder}/{name}.dcm",
        "label": label,
        "patient": patient or name,
        "centre": centre,
        "origin": {"kind": "simulated"} | origin,
    }


@pytest.fixture
def item():
    return make_item


@pytest.fixture
def write(tmp_path):
    """Write a dataset by hand, so that it may also break the rules; every image's bytes are its own path."""

    def write(folder="d", *, labels=("goiter", "normal"), training=(), validation=(), test=(), **fields):
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        splits = {"training": list(training), "validation": list(validation), "test": list(test)}
        for path in [
            item[key] for items in splits.values() for item in items for key in ("image", "mask") if key in item
        ]:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(folder + path)
        content = {
            "name": folder,
            "description": "test",
            "labels": {str(number): name for number, name in enumerate(labels)},
            "modality": "NM",
            "licence": "none",
        }
        (root / "dataset.json").write_text(json.dumps(content | splits | fields))
        return root

    return write
