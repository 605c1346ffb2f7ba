"""From a study file to pieces of work."""

import ast
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from fire.parser import DefaultParseValue

from scintikit.data import load_dataset
from scintikit.errors import ConfigError, DatasetError
from scintikit.study import Given, Made, Plan, load_study, make_plan
from scintikit.study.work import ROOT, in_order
from tools.run import BUNDLES

STUDY: dict[str, Any] = {
    "name": "test",
    "dataset": {"profile": "tiny"},
    "classifier": {"bundle": "thyroid_cls", "options": {"augment": False}},
    "epochs": 5,
    "steps": 7,
    "seeds": 2,
    "per_class": 10,
    "generators": {"fm": {"bundle": "fm_generator", "training": [{"options": {"max_epochs": 3}}]}},
    "sources": {"CA": {"augment": {}}, "FM": {"generator": "fm"}},
    "scenarios": ["O", "FM", "O+FM", "O+CA+FM", "FM>O", "O+FM(audited)", "O+FM(4)", "O+FM(20)"],
    "compare_with": ["O", "FM"],
}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(**changes: Any) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(STUDY | changes))
        return path

    return write


@pytest.fixture
def plan(write: Any) -> Plan:
    return make_plan(load_study(write()))


def arguments(plan: Plan, scenario: str, command: int = -1) -> list[Any]:
    return list(plan.trainings[scenario][0].commands[command].arguments)


def option(words: list[Any], name: str) -> Any:
    return words[words.index(f"--{name}") + 1]


def test_every_training_takes_the_same_steps_and_seeds(plan: Plan) -> None:
    for works in plan.trainings.values():
        for seed, work in enumerate(works):
            given = [list(command.arguments) for command in work.commands]
            assert sum(int(option(words, "max_epochs")) for words in given) == 5
            assert {(option(words, "epoch_length"), option(words, "seed")) for words in given} == {("7", str(seed))}
            assert {option(words, "patience") for words in given} == {"0"}


def test_pretraining_hands_its_weights_on(plan: Plan) -> None:
    first, second = (list(command.arguments) for command in plan.trainings["FM>O"][0].commands)
    assert option(second, "dataset_dir") == plan.original
    assert option(first, "dataset_dir") == option(arguments(plan, "FM"), "dataset_dir")
    assert option(second, "load_pretrained").path == f"{option(first, 'ckpt_dir').path}/model.pt"
    assert "--load_pretrained" not in first


def test_nothing_is_made_twice(plan: Plan) -> None:
    kinds = Counter(work.kind for work in in_order([*plan.preparing, *plan.testing]))
    assert kinds["generator"] == 1
    assert kinds["generate"] == 1
    assert kinds["augment"] == 1
    assert kinds["train"] == kinds["test"] == 2 * len(plan.trainings)
    assert kinds["subset"] == 2  # ten and four of the twenty of each class


def test_as_many_are_drawn_as_the_largest_scenario_needs(plan: Plan) -> None:
    drawing = next(work for work in in_order(plan.preparing) if work.kind == "generate")
    assert option(list(drawing.commands[0].arguments), "per_class") == "20"
    assert option(arguments(plan, "O+FM(20)"), "dataset_dir") != option(arguments(plan, "O+FM"), "dataset_dir")


def test_synthetic_scenarios_leave_the_original_training_items_out(plan: Plan) -> None:
    merged = option(arguments(plan, "FM"), "dataset_dir").work
    words = list(merged.commands[0].arguments)
    assert words[1] == plan.original
    assert option(words, "synthetic_only") == "True"
    assert "--synthetic_only" not in option(arguments(plan, "O+FM"), "dataset_dir").work.commands[0].arguments


def test_no_training_reads_a_test_and_tests_read_the_original_dataset(plan: Plan) -> None:
    assert not [work for work in in_order(plan.preparing) if work.kind == "test"]
    for work in plan.testing:
        words = list(work.commands[0].arguments)
        assert words[2] == "evaluating"
        assert option(words, "dataset_dir") == plan.original


def test_pictures_are_measured_and_shown_as_the_classifier_sees_them(write: Any) -> None:
    options = {"augment": False, "image_size": [64, 64], "spacing_mm": 4.0, "assumed_spacing_mm": 2.4}
    plan = make_plan(load_study(write(classifier={"bundle": "thyroid_cls", "options": options})))
    audited = option(arguments(plan, "O+FM(audited)"), "dataset_dir").work
    dropping = next(work for work in in_order([audited]) if work.kind == "audited").commands[-1]
    assert plan.samples is not None
    for command in (plan.fidelity["FM"].commands[0], plan.audits["FM"].commands[0], plan.samples.commands[0], dropping):
        words = list(command.arguments)
        assert (option(words, "image_size"), option(words, "spacing_mm")) == ("[64, 64]", "4.0")
        assert option(words, "assumed_spacing_mm") == "2.4"
        assert "--augment" not in words  # says nothing about how a picture is read


def test_a_changed_option_redoes_only_what_depends_on_it(write: Any, plan: Plan) -> None:
    generators = {"fm": {"bundle": "fm_generator", "training": [{"options": {"max_epochs": 4}}]}}
    changed = make_plan(load_study(write(generators=generators)))
    same = {name: plan.trainings[name][0].key == changed.trainings[name][0].key for name in plan.trainings}
    assert [name for name, is_same in same.items() if is_same] == ["O"]


def test_own_datasets_and_trained_generators_count_by_their_content(
    write: Any, tiny_dataset: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no trained generator in"):
        make_plan(load_study(write(generators={"fm": {"bundle": "fm_generator", "trained": str(tmp_path / "none")}})))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.pt").write_bytes(b"weights")
    generators = {"fm": {"bundle": "fm_generator", "trained": str(tmp_path / "model")}}
    plan = make_plan(load_study(write(dataset=tiny_dataset, generators=generators)))
    assert isinstance(plan.original, Given)
    assert not [work for work in in_order(plan.preparing) if work.kind in ("simulate", "generator")]
    moved = tmp_path / "elsewhere"
    (tmp_path / "model").rename(moved)
    again = make_plan(
        load_study(write(dataset=tiny_dataset, generators={"fm": {**generators["fm"], "trained": str(moved)}}))
    )
    assert [work.key for work in plan.testing] == [work.key for work in again.testing]
    (moved / "model.pt").write_bytes(b"other")
    other = make_plan(
        load_study(write(dataset=tiny_dataset, generators={"fm": {**generators["fm"], "trained": str(moved)}}))
    )
    assert plan.tests["O+FM"][0].key != other.tests["O+FM"][0].key
    (moved / "autoencoder").mkdir()
    (moved / "autoencoder/model.pt").write_bytes(b"further weights")
    further = make_plan(
        load_study(write(dataset=tiny_dataset, generators={"fm": {**generators["fm"], "trained": str(moved)}}))
    )
    assert further.tests["O+FM"][0].key != other.tests["O+FM"][0].key


def test_weights_that_an_option_names_count_by_their_content(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.pt").write_bytes(b"weights")

    def keys(name: str) -> list[str]:
        path = name if name.startswith("~") else str(tmp_path / name)
        training = [{"options": {"load_pretrained": path}}]
        planned = make_plan(load_study(write(generators={"fm": {"bundle": "fm_generator", "training": training}})))
        return [work.key for work in planned.testing]

    before = keys("weights.pt")
    (tmp_path / "weights.pt").rename(tmp_path / "moved.pt")
    assert keys("moved.pt") == before
    (tmp_path / "moved.pt").write_bytes(b"others")
    assert keys("moved.pt") != before
    monkeypatch.setenv("HOME", str(tmp_path))
    assert keys("~/moved.pt") == keys("moved.pt")


def test_the_bundle_s_own_model_decides_nothing(plan: Plan) -> None:
    for work in (plan.fidelity["FM"], plan.audits["FM"]):
        assert option(list(work.commands[0].arguments), "extractor") == "random"
    for work in in_order([*plan.preparing, *plan.testing]):
        assert not [path for command in work.commands for path in command.code if "/models" in path]


def test_shards_fill_one_folder(write: Any) -> None:
    plan = make_plan(load_study(write(shards=3)))
    parts = [work for work in in_order(plan.preparing) if work.kind == "generate"]
    words = [list(part.commands[0].arguments) for part in parts]
    assert [option(w, "shard") for w in words] == [0, 1, 2]
    assert {option(w, "shards") for w in words} == {3}
    folder = option(words[0], "output_dir")
    assert all(option(w, "output_dir") == folder for w in words)
    merged = option(arguments(plan, "O+FM(20)"), "dataset_dir").work
    assert set(parts) <= set(merged.needs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "seeds: 0 is less than the minimum"),
        ({"seed": 1}, "'seed' was unexpected"),
        ({"scenarios": ["O", " O"]}, "named twice: O"),
        ({"scenarios": ["O+FN"]}, "there is no source .FN."),
        ({"sources": {"CA": {"augment": {}}, "FM": {"generator": "fn"}}}, "there is no generator .fn."),
        ({"sources": {"CA": {"augment": {}, "generator": "fm"}}}, "either `augment` or `generator`"),
        ({"sources": {"CA": {"augment": {}, "options": {"flip": 0}}}}, "CA: give its options under `augment`"),
        ({"sources": {"CA": {"augment": {"per_class": 5}}}}, "source CA: per_class cannot be an option"),
        ({"sources": {False: {"augment": {}}}}, "the name False is not text"),
        ({"classifier": {"bundle": "thyroid_cls", "options": {"seed": 3}}}, "classifier: seed cannot be an option"),
        ({"classifier": {"bundle": "thyroid_cls", "options": {"max_epochs": 3}}}, "max_epochs cannot be an option"),
        ({"generators": {"fm": {"bundle": "fm_generator"}}}, "fm needs `training`.* or `trained`"),
        ({"generators": {"fm": {"bundle": "fm_generator", "training": [{"options": {"shard": 1}}]}}}, "fm: shard"),
        ({"compare_with": ["O", "O+CA"]}, "compare_with names O.CA, which is not among the scenarios"),
        ({"scenarios": ["O", "O+CA(audited)"]}, "O.CA.audited. audits augmented copies"),
        ({"compare_with": ["O+CB"]}, "there is no source 'CB'"),
        ({"primary_metric": "macro_f2"}, "no primary_metric 'macro_f2', did you mean 'macro_f1'"),
        ({"epochs": 1}, "FM>O has 2 stages, which share `epochs`, and there are 1"),
        ({"seeds": "3"}, "seeds: '3' is not of type 'integer'"),
        ({"profiles": ["quick"]}, "profiles: expected names"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(write: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_study(write(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"primary_metric": "exact_match"},
            "'exact_match' is not measured on scintigrams of one class each; take macro",
        ),
        ({"dataset": {"profile": "bone_demo"}, "primary_metric": "mcc"}, "'mcc' is not measured.*several diseases"),
    ],
)
def test_a_metric_that_the_tests_will_not_have_is_told_before_anything_begins(
    write: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(load_study(write(**changes)))


def test_a_test_without_a_disease_is_refused(write: Any, tiny_bone_dataset: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bone_dataset, tmp_path / "own"))
    content = json.loads((folder / "dataset.json").read_text())
    content["test"] = [item for item in content["test"] if not item["label"][1]]
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="no items both with and without 'arthritis'"):
        make_plan(load_study(write(dataset=str(folder), primary_metric="macro_auc")))


def test_of_several_diseases_the_macro_auc_decides_unless_the_file_says_otherwise(
    write: Any, tiny_bone_dataset: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_bone_dataset, tmp_path / "own"))
    content = json.loads((folder / "dataset.json").read_text())
    content["test"] = [item for item in content["test"] if any(item["label"])]
    (folder / "dataset.json").write_text(json.dumps(content))
    make_plan(load_study(write(dataset=str(folder))))
    with pytest.raises(DatasetError, match=r"the test has no macro_f1, .* and items without any disease"):
        make_plan(load_study(write(dataset=str(folder), primary_metric="macro_f1")))


def test_one_training_under_two_names_is_refused(write: Any) -> None:
    with pytest.raises(ConfigError, match=r"O.FM and O.FM.10. are the same training"):
        make_plan(load_study(write(scenarios=["O", "O+FM", "O+FM(10)"], compare_with=["O"])))


def test_a_missing_file_or_profile_is_named(write: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no study file"):
        load_study(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="did you mean 'quick'"):
        load_study(write(profiles={"quick": {}}), "quikc")


def test_an_unknown_bundle_is_named_before_anything_begins(write: Any) -> None:
    with pytest.raises(ConfigError, match=r"classifier: there is no bundle 'thyroid_clas', did you mean 'thyroid_cls'"):
        make_plan(load_study(write(classifier={"bundle": "thyroid_clas"})))
    with pytest.raises(ConfigError, match=r"generator fm: there is no bundle '/elsewhere/fm'"):
        make_plan(load_study(write(generators={"fm": {"bundle": "/elsewhere/fm", "training": [{}]}})))


def test_whole_numbers_may_have_a_point(write: Any) -> None:
    assert load_study(write(seeds=2.0)).seeds == 2


def test_the_key_does_not_depend_on_the_order_of_options_nor_on_the_number_of_shards(write: Any) -> None:
    keys = set()
    for options, shards in (({"batch_size": 4, "augment": False}, 1), ({"augment": False, "batch_size": 4}, 3)):
        study = write(classifier={"bundle": "thyroid_cls", "options": options}, shards=shards)
        keys.add(make_plan(load_study(study)).tests["O+FM"][0].key)
    assert len(keys) == 1


def test_the_classifier_is_told_the_classes_of_an_own_dataset(write: Any, own: Path) -> None:
    plan = make_plan(load_study(write(dataset=str(own))))
    names = list(load_dataset(own).labels.values())
    assert 'scan, "no" <b> | finding' in names
    for work in (plan.trainings["O"][0], plan.tests["O"][0]):
        told = option(list(work.commands[0].arguments), "class_names")
        assert DefaultParseValue(told) == names


def test_own_datasets_that_would_make_the_study_wrong_are_refused(write: Any, own: Path) -> None:
    content = json.loads((own / "dataset.json").read_text())
    (own / "dataset.json").write_text(json.dumps(content | {"test": []}))
    with pytest.raises(DatasetError, match=r"no test items.*compared on"):
        make_plan(load_study(write(dataset=str(own))))
    few = [item for item in content["validation"] if item["label"] != 3]
    (own / "dataset.json").write_text(json.dumps(content | {"validation": few}))
    with pytest.raises(DatasetError, match=r"no validation item shows .scan"):
        make_plan(load_study(write(dataset=str(own))))
    content["training"][0]["origin"] |= {"kind": "fm"}
    (own / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="1 training items are synthetic"):
        make_plan(load_study(write(dataset=str(own))))


@pytest.fixture
def own(tiny_dataset: str, tmp_path: Path) -> Path:
    """A dataset with other class names than the bundle's."""
    folder = Path(shutil.copytree(tiny_dataset, tmp_path / "own"))
    content = json.loads((folder / "dataset.json").read_text())
    content["labels"]["3"] = 'scan, "no" <b> | finding'
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_all_code_that_a_piece_imports_is_in_its_key(plan: Plan) -> None:
    """Followed from the bundles' and tools' own imports; what only draws, checks or writes files may be left out."""
    ignored = ("errors", "files", "environment", "bundles", "__init__", "reporting", "metrics/__init__")
    ignored += ("engines/outputs", "engines/calibration")
    ignored += tuple(f"metrics/{name}" for name in ("checks", "evaluate", "classification", "localisation"))
    ignored += tuple(f"metrics/{name}" for name in ("calibration", "diseases", "intervals"))  # where they only report
    for work in in_order([*plan.preparing, *plan.testing]):
        for command in work.commands:
            covered = {path for place in command.code for path in modules(ROOT / place)}
            imported = {found for path in covered for found in imports(path)}
            missing = {str(path.relative_to(ROOT)) for path in imported - covered}
            missing = {name for name in missing if not name.removeprefix("scintikit/").startswith(ignored)}
            assert not missing, work.kind


def modules(place: Path) -> list[Path]:
    return sorted(place.rglob("*.py")) if place.is_dir() else [place] if place.suffix == ".py" else []


def imports(path: Path) -> set[Path]:
    """Return the modules of this checkout that a module imports by name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("scintikit", "tools"):
            whole = ROOT / node.module.replace(".", "/")
            inside = [whole / f"{alias.name}.py" for alias in node.names]
            found |= {file for file in (whole.with_suffix(".py"), *inside) if file.is_file()}
    return found


def test_a_profile_replaces_what_it_names(write: Any) -> None:
    study = load_study(write(profiles={"quick": {"seeds": 1, "classifier": {"options": {"batch_size": 8}}}}), "quick")
    assert study.seeds == 1
    assert study.epochs == 5
    assert study.classifier == {"bundle": "thyroid_cls", "options": {"augment": False, "batch_size": 8}}


@pytest.mark.parametrize("path", sorted(BUNDLES.glob("*/study.yaml")), ids=lambda path: path.parent.name)
def test_the_studies_of_the_bundles_can_be_planned(path: Path) -> None:
    profiles = yaml.safe_load(path.read_text())["profiles"]
    for profile in (None, *profiles):
        plan = make_plan(load_study(path, profile))
        assert isinstance(plan.original, Made)
        assert set(plan.study.compare_with) <= set(plan.trainings)
