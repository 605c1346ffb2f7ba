"""Configs: what is told of them without evaluating anything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from scintikit.packing.lint import lint_config, lint_logging
from tools.run import BUNDLES

CONFIGS = sorted(path for path in BUNDLES.glob("*/configs/*.json") if path.stem != "metadata")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.parent.name}/{path.name}")
def test_every_config_of_ours_is_clean(path: Path) -> None:
    whole = "bundle_root" in json.loads(path.read_text())
    assert lint_config(path.parent.parent, path, overlays=not whole) == []


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A copy of the configs of thyroid_cls."""
    shutil.copytree(BUNDLES / "thyroid_cls" / "configs", tmp_path / "configs")
    shutil.copytree(BUNDLES.parent / "scintikit", tmp_path / "scintikit", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "configs" / "inference.json"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"x": "$__import__('os').system('id')"}, "uses '__import__'"),
        ({"x": "$import os"}, "uses 'os'"),
        ({"x": "$from os import system"}, "uses 'importfrom'"),
        ({"x": "$open('a').read()"}, "uses 'open'"),
        ({"x": "$torch.load('a')"}, "uses 'load'"),
        ({"x": "$torch.hub.load_state_dict_from_url('a')"}, "uses 'hub'"),
        ({"x": "$().__class__.__base__.__subclasses__()"}, "uses '__subclasses__'"),
        ({"x": "$operator.attrgetter('a')"}, "uses 'attrgetter'"),
        ({"x": "$(lambda: 1)()"}, "uses 'lambda'"),
        ({"x": "$monai.apps.download_url('https://example.org')"}, "uses 'https://example.org'"),
        ({"x": "$1 +"}, "no Python expression"),
        ({"x": "@nowhere#deep"}, "@nowhere#deep leads nowhere"),
        ({"x": "$@nowhere + 1"}, "@nowhere leads nowhere"),
        ({"x": "/data/scans"}, "absolute path"),
        ({"x": "~/scans"}, "absolute path"),
        ({"x": ["a", {"y": "https://example.org/weights.pt"}]}, "absolute path or address"),
        ({"x": {"_target_": "os.system", "command": "id"}}, "no package that a config may use"),
        ({"x": {"_target_": "torch.load"}}, "no package that a config may use"),
        ({"x": {"_target_": "torch.hub.load"}}, "no package that a config may use"),
        ({"x": {"_target_": "$torch.nn.ReLU"}}, "not named plainly"),
        ({"x": {"_target_": "NoSuchTransform"}}, "MONAI has no component"),
        ({"x": {"_target_": "torch.nn.NoSuchLayer"}}, "there is no torch.nn.NoSuchLayer"),
        ({"x": {"_target_": "scintikit.data.NoSuchd"}}, "not in the bundle"),
        ({"x": {"_target_": "scripts.network.Net"}}, "not in the bundle"),
        ({"x": {"_target_": "torch.os.mkdir"}}, "is os's"),
        ({"x": {"_target_": "torch.utils.cpp_extension.load_inline"}}, "no package that a config may use"),
        ({"x": {"_target_": "Compose", "_mode_": "debug"}}, "'debug' is not for use"),
        ({"x": {"_target_": "Compose"}, "x::_target_": "os.system"}, "no package that a config may use"),
        ({"x": "$torch.os.mkdir('a')"}, "uses 'torch.os'"),
        ({"x": "$scintikit.files.os.mkdir('a')"}, "uses 'scintikit.files.os'"),
        ({"x": "$monai.utils.optional_import('subprocess')[0].run('id')"}, "uses 'optional_import'"),
        ({"x": "%docs/other.json::a"}, "from another file"),
        ({"x": "../../scans"}, "leads out of"),
        ({"x": "$@bundle_root + '/../scans'"}, "uses '/../scans'"),
    ],
)
def test_what_a_config_must_not_have_is_named(change: dict[str, Any], problem: str, config: Path) -> None:
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    problems = lint_config(config.parent.parent, config)
    assert len(problems) >= 1
    assert any(text.startswith("x") and problem in text for text in problems), problems


@pytest.mark.parametrize(
    "line",
    ["args=(__import__('os').mkdir('x'),)", "class=FileHandler", "kwargs={'stream': open('x')}", "args=%(evil)s"],
)
def test_logging_evaluates_nothing_else(line: str, tmp_path: Path) -> None:
    ours = BUNDLES / "thyroid_cls" / "configs" / "logging.conf"
    assert lint_logging(ours) == []
    key = line.split("=")[0]
    lines = [text for text in ours.read_text().splitlines() if not text.startswith(f"{key}=")]
    lines.insert(lines.index("[handler_console]") + 1, line)
    (tmp_path / "logging.conf").write_text("\n".join(lines))
    assert [problem for problem in lint_logging(tmp_path / "logging.conf") if f"{key} is" in problem]
