"""An item follows from (seed, index) alone; batches are a fixed partition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose, Lambda

from scintikit.errors import ConfigError, DatasetError
from scintikit.generation import MissingBatches, PrepareRequests, RequestBatches, WordTokenizer
from scintikit.generation.devices import name_devices
from scintikit.generation.quality import Diversity
from scintikit.generation.records import Record, record_path
from scintikit.generation.requests import grain, mask_picture

CPU = torch.device("cpu")


class Statistics:
    def __init__(self) -> None:
        self.settings = {"views": ["ANT"], "spacing_mm": 2.0, "class_names": ["cold", "hot", "normal"]}

    def levels(self, label: int, centre: str) -> list[float]:
        return [] if centre == "unknown" else [100.0 * (label + 1), 100.0 * (label + 1) + 1]

    def field(self, centre: str, matrix: tuple[int, int]) -> torch.Tensor:
        return torch.ones(*matrix)


def _data(*, masks: bool = True) -> list[dict[str, Any]]:
    extra = {"mask": "m.nii.gz"} if masks else {}
    return [{"image": f"{k}.dcm", "id": f"I_{k}", "label": k % 3, "centre": "A", **extra} for k in range(15)]


def _preprocess(item: dict[str, Any]) -> dict[str, Any]:
    """Give every source a structure of its own."""
    mask = torch.zeros(2, 32, 32)
    mask[0, 5 + int(item["id"][2:]) : 25, 8:20] = 1
    mask[1] = 1
    return {
        **item,
        "image": torch.zeros(1, 32, 32),
        "mask": mask,
        "matrix": torch.tensor([32, 30]),
        "pixel_mm": torch.tensor([2.16, 1.1]),
    }


def _batches(per_class: int = 5, batch_size: int = 4, **options: Any) -> RequestBatches:
    data = options.pop("data", None) or _data()
    return RequestBatches(data, _preprocess, Statistics(), per_class, batch_size, **options)


def _items(batches: RequestBatches) -> list[tuple[Any, ...]]:
    found = []
    for number in range(len(batches)):
        batch = batches[number]
        for place, request in enumerate(batch["requests"]):
            tensors = (value[place].tolist() for value in (batch["image"], *batch["conditions"].values()))
            found.append((request.index, request.source["id"], request.level, request.deformation, *tensors))
    return found


def test_items_do_not_depend_on_the_size_or_the_order_of_batches() -> None:
    items = _items(_batches())
    assert items == _items(_batches(batch_size=7))
    batches = _batches()
    last_first = [batches[number]["requests"][0].source["id"] for number in (3, 0)]
    assert last_first == [items[12][1], items[0][1]]
    assert [item[0] for item in items] == list(range(15))
    assert _items(_batches(seed=1)) != items


def test_every_class_gets_its_share_and_sources_of_its_own() -> None:
    requests = [request for number in range(4) for request in _batches()[number]["requests"]]
    assert [request.source["label"] for request in requests] == [0] * 5 + [1] * 5 + [2] * 5
    assert {request.level for request in requests if request.source["label"] == 1} == {200.0, 201.0}
    assert len({request.source["id"] for request in requests}) > 6
    assert requests[0].matrix == (32, 30)
    assert requests[0].pixel_mm == (2.16, 1.1)  # and not 2.1600000858306885


def test_last_batch_is_filled_up() -> None:
    last = _batches()[3]
    assert len(last["requests"]) == 3
    assert list(last["conditions"]) == ["y", "mask", "level"]
    for values in (last["image"], *last["conditions"].values()):
        assert len(values) == 4
        assert torch.equal(values[3], values[2])
    x0, label, none, conditions = PrepareRequests()(last, CPU)
    assert label is None
    assert none == ()
    assert torch.equal(x0, last["image"])
    assert conditions.pop("requests") is last["requests"]
    assert all(torch.equal(value, last["conditions"][name]) for name, value in conditions.items())
    assert set(conditions) == set(last["conditions"])


def test_masks_vary_and_can_be_left_out() -> None:
    varied, still, bare = _batches(), _batches(mask_variation=0), _batches(use_masks=False)
    for number in range(4):
        for request, same, none in zip(*(b[number]["requests"] for b in (varied, still, bare)), strict=True):
            assert request.source == same.source == none.source
            assert request.deformation is not None
            assert same.deformation is none.deformation is none.structures is None
            exact = _preprocess(same.source)["mask"][:-1]
            assert torch.equal(same.structures, exact)
            assert (request.structures - exact).abs().max() > 0.3
        mask = bare[number]["conditions"]["mask"]
        assert not mask[:, :-1].any()
        assert mask[:, -1].all()


def test_sources_are_read_once() -> None:
    read: list[str] = []

    def preprocess(item: dict[str, Any]) -> dict[str, Any]:
        read.append(item["id"])
        return _preprocess(item)

    batches = RequestBatches(_data(), Compose([Lambda(preprocess)]), Statistics(), per_class=30, batch_size=8)
    for number in range(len(batches)):
        _ = batches[number]
    assert len(read) == len(set(read)) <= 15


def test_only_items_with_a_mask_are_sources() -> None:
    data = _data()
    for item in data[3:]:
        del item["mask"]
    requests = [r for number in range(4) for r in _batches(data=data)[number]["requests"]]
    assert {request.source["id"] for request in requests} == {"I_0", "I_1", "I_2"}
    del data[1]["mask"]
    with pytest.raises(DatasetError, match=r"class 'hot' has a mask.*--use_masks False"):
        _batches(data=data)
    told = [item | {"prompt": "scan"} for item in data]
    with pytest.raises(DatasetError, match=r"class 'hot' has a mask.*or take --mode sd2"):
        _batches(data=told, tokenizer=lambda prompts: torch.zeros(len(prompts), 4))
    several = [item | {"label": [0, int(item["label"] == 1), 1]} for item in data]
    with pytest.raises(DatasetError, match=r"class 'hot \+ normal' has a mask"):
        _batches(data=several)
    assert len(_batches(data=data, use_masks=False)) == 4


def _tokens(prompts: list[str]) -> torch.Tensor:
    return torch.tensor([[len(prompt)] for prompt in prompts])


def test_own_words_and_one_class() -> None:
    batches = _batches(only="hot", prompt="large hot nodule", tokenizer=_tokens)
    requests = [request for number in range(len(batches)) for request in batches[number]["requests"]]
    assert [(request.source["label"], request.prompt) for request in requests] == [(1, "large hot nodule")] * 5
    assert batches[0]["conditions"]["tokens"].tolist() == [[16]] * 4
    assert batches.labels == {"1"}
    assert (batches.recipe()["only"], batches.recipe()["prompt"]) == ("hot", "large hot nodule")
    several = [item | {"label": [int(item["label"] == 1), 1, 0]} for item in _data()]
    assert _batches(only="cold", data=several).labels == {"110"}
    told = [item | {"prompt": "scan"} if item["label"] == 1 else item for item in _data()]
    assert _batches(only="hot", data=told, tokenizer=_tokens)[0]["requests"][0].prompt == "scan"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "hto"}, "only is 'hto', did you mean 'hot'"),
        ({"only": 1}, "only is 1; the classes are 'cold', 'hot', 'normal'"),
        ({"prompt": "hot nodule", "tokenizer": _tokens}, "name the class that these pictures are to have: --only"),
        ({"prompt": "hot nodule", "only": "hot"}, "this mode draws without one; take --mode"),
        ({"prompt": " ", "only": "hot", "tokenizer": _tokens}, "expected words"),
    ],
)
def test_own_words_without_what_they_need_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _batches(**options)


def test_label_and_centre_that_the_model_has_not_seen_are_named() -> None:
    batches = _batches(data=[item | {"centre": "unknown"} for item in _data()])
    with pytest.raises(DatasetError, match=r"0\.dcm: the model has seen no picture of label 0 at centre 'unknown'"):
        batches.check()
    _batches().check()


def test_every_prompt_is_read_before_the_first_batch() -> None:
    data = [item | {"prompt": "scan"} for item in _data()]
    data[7]["prompt"] = "scan of a hot nodule"
    tokenizer = WordTokenizer(["scan", "of", "a", "hot", "nodule"], length=3, strict=True)
    with pytest.raises(DatasetError, match="its last 3 of 5 words do not fit"):
        _batches(data=data, tokenizer=tokenizer).check()
    _batches(data=data, tokenizer=tokenizer, only="hot", prompt="scan").check()


@pytest.mark.parametrize(
    "change", [{"per_class": 0}, {"batch_size": 0}, {"seed": -1}, {"per_class": 2.5}, {"seed": True}]
)
def test_numbers_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        _batches(**change)


def test_grain_depends_on_seed_item_and_draw_only() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    drawn = [grain(*key).poisson(100, 20).tolist() for key in keys]
    assert drawn == [grain(*key).poisson(100, 20).tolist() for key in keys]
    assert len({tuple(values) for values in drawn}) == 4
    # Neither are they the numbers that chose the item.
    assert np.random.default_rng((0, 0)).poisson(100, 20).tolist() not in drawn


def test_shards_share_what_is_missing(tmp_path: Path) -> None:
    Record().save(tmp_path, 4)
    shards = [list(MissingBatches(10, str(tmp_path), shard, 3)) for shard in range(3)]
    assert shards == [[0, 3, 6, 9], [1, 7], [2, 5, 8]]
    assert len(MissingBatches(10, str(tmp_path))) == 9


def test_records_add_up_and_come_back_from_their_files(tmp_path: Path) -> None:
    pictures = torch.rand(6, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    whole = Record()
    for number in range(2):
        record = Record(items=[{"image": f"{number}.dcm"}], diversity={"0": Diversity.of(pictures[number::2])})
        record.redrawn.update(["empty", "saturated"] * number)
        record.left_out.update(["empty"])
        record.save(tmp_path, number)
        json.loads(record_path(tmp_path, number).read_text())
        whole.add(Record.load(tmp_path, number))
    assert whole.report(8, {"0": 0.5}) == {
        "asked": 8,
        "written": 2,
        "redrawn": {"empty": 1, "saturated": 1},
        "left_out": {"empty": 2},
        "diversity": {"0": {"synthetic": round(Diversity.of(pictures).distance, 5), "real": 0.5}},
    }


def test_devices_by_name_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert name_devices(2, CPU) == [CPU, CPU]
    assert name_devices(["cpu"], CPU) == name_devices("cpu", CPU) == [CPU]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert name_devices(None, CPU) == [CPU] * 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert name_devices(None, torch.device("cuda")) == [torch.device("cuda")]
    assert name_devices(2, torch.device("cuda")) == [torch.device("cuda:0"), torch.device("cuda:1")]
    with pytest.raises(ConfigError, match="2 CUDA devices"):
        name_devices(3, torch.device("cuda"))


def test_plain_picture_of_a_mask_shows_each_view_its_own_structures() -> None:
    structures = torch.zeros(4, 2, 2)
    structures[0, 0, 0] = structures[3, 1, 1] = 1
    picture = mask_picture(structures, 2)
    assert picture[0].tolist() == [[pytest.approx(0.6), 0], [0, 0]]
    assert picture[1].tolist() == [[0, 0], [0, 1]]
