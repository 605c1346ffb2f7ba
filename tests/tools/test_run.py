"""The launcher finds bundles and configs, and says what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from fire.decorators import FIRE_METADATA, FIRE_PARSE_FNS

from scintikit.errors import ConfigError, DatasetError
from tools.__main__ import _explain_run
from tools.run import BUNDLES, as_lists, find_bundle, find_configs, options, run

BUNDLE = BUNDLES / "thyroid_cls"


def test_bundle_by_name_and_by_path() -> None:
    assert find_bundle("thyroid_cls") == find_bundle(str(BUNDLE)) == BUNDLE
    with pytest.raises(ConfigError, match="no bundle 'thyroid_csl', did you mean 'thyroid_cls'"):
        find_bundle("thyroid_csl")


@pytest.mark.parametrize(
    ("task", "overlays", "files", "run_id"),
    [
        ("training", (), ["train"], "training"),
        ("evaluating", (), ["train", "evaluate"], "evaluating"),
        ("inference", (), ["inference"], "inference"),
        ("training", ("multi_gpu_train",), ["train", "multi_gpu_train"], "training"),
    ],
)
def test_configs_of_a_task(task: str, overlays: tuple[str, ...], files: list[str], run_id: str) -> None:
    paths, found = find_configs(BUNDLE, task, overlays)
    assert ([path.stem for path in paths], found) == (files, run_id)


def test_unknown_task_and_overlay_name_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'training'.*evaluating, inference"):
        find_configs(BUNDLE, "trainin")
    with pytest.raises(ConfigError, match="no overlay 'multi_gpu', did you mean 'multi_gpu_train'"):
        find_configs(BUNDLE, "training", ("multi_gpu",))
    with pytest.raises(ConfigError, match="known are fast, finetune_sd, hub_text, multi_gpu_train, train_autoencoder"):
        find_configs(BUNDLES / "sd_generator", "training", ("autoencoder",))


def test_usage_lists_tasks_and_overlays(capsys: pytest.CaptureFixture[str]) -> None:
    _explain_run()
    assert "overlays: fast, finetune_sd, hub_text, multi_gpu_train, train_autoencoder" in capsys.readouterr().out


@pytest.mark.parametrize("config", ["train", "inference"])
def test_options_are_what_a_user_may_change(config: str) -> None:
    listed = options(json.loads((BUNDLES / "sd_generator" / "configs" / f"{config}.json").read_text()))
    assert {"dataset_dir", "class_names", "batch_size", "seed"} <= set(listed)
    assert not {"imports", "initialize", "handlers", "network", "training", "generating", "run"} & set(listed)


@pytest.mark.parametrize("value", ["hot nodule, cold nodule", ("hot nodule", "cold nodule")])
def test_class_names_can_be_parted_by_commas(value: object, train: Callable[..., None]) -> None:
    with pytest.raises(DatasetError, match=r"set up for \['hot nodule', 'cold nodule'\]"):
        train(class_names=value)


def test_text_becomes_a_list_only_where_a_list_is_expected() -> None:
    workflow = SimpleNamespace(parser={"views": ["ANT"], "class_names": {}, "precision": "auto"})
    given = {"views": "ANT,POST", "class_names": "@names", "precision": "a,b"}
    expected = {"views": ["ANT", "POST"], "class_names": "@names", "precision": "a,b"}
    assert as_lists(workflow, given) == expected  # type: ignore[arg-type]


def test_words_of_a_prompt_stay_as_they_are_typed() -> None:
    parse = getattr(run, FIRE_METADATA)[FIRE_PARSE_FNS]["named"]["prompt"]
    assert [parse(text) for text in ("hot,cold", "3", "None", "True")] == ["hot,cold", "3", None, True]
    with pytest.raises(ConfigError, match="--prompt needs a value"):
        run("sd_generator", "generating", prompt=True)


@pytest.mark.parametrize("wrong", ["batch_sizze", "validate#dataloader#batch_sizze"])
def test_mistyped_override_is_refused_with_a_suggestion(wrong: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown option --{wrong}.*batch_size"):
        run("thyroid_cls", "training", **{wrong: 4})


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("max_epochs", True, "needs a value"),
        ("max_epochs", "two", "expected a number"),
        ("dataset_dir", True, "needs a"),
    ],
)
def test_option_without_a_value_or_of_another_type_is_refused(option: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"--{option} .*{message}"):
        run("thyroid_cls", "training", **{option: value})


def test_failing_config_item_is_named(train: Callable[..., None]) -> None:
    with pytest.raises(ConfigError, match=r"config item 'lr_scheduler' of train\.json failed.*no\.such\.Thing"):
        train(**{"lr_scheduler#_target_": "no.such.Thing"})


def test_root_cause_is_shown(train: Callable[..., None]) -> None:
    with pytest.raises(ConfigError, match=r"train#dataloader.* failed: ValueError: batch_size should be"):
        train(batch_size=0)


def _tools(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def test_command_line_works_from_any_folder_and_ends_with_one_clear_line(tmp_path: Path) -> None:
    done = _tools("simulate", "--profle", "tiny", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "error: unknown option --profle, did you mean 'profile'?; known are profile, seed, output, workers"
    )
    assert _tools("simulat", cwd=tmp_path).stderr.startswith("error: unknown verb 'simulat', did you mean 'simulate'?")
    assert "simulate" in _tools(cwd=tmp_path).stdout
