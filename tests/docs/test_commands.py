"""The commands of README.md and of the site's pages: those of tutorial and how-to pages run, all others exist."""

from __future__ import annotations

import csv
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from doc_commands import (
    CHECKED,
    README,
    ROOT,
    RUN,
    SMALL,
    blocks,
    check,
    commands,
    inline,
    runnable,
    small,
    tools_words,
)

from scintikit.data import load_dataset
from scintikit.dicom import read_scintigram, write_scintigram
from scintikit.errors import ConfigError, ScintikitError

CODE = ("scintikit", "tools", "Makefile", "pyproject.toml")
SERVER = Path(__file__).parent / "command_server.py"


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", CHECKED, ids=name)
def test_commands_name_what_exists(page: Path) -> None:
    bundle = page.parts[-3] if page.parts[-2] == "docs" and page.parts[-4] == "bundles" else ""
    for block in blocks(page):
        if block.why_not is None and page in RUN and page != README:
            continue  # it is run
        for words in commands(block.text):
            check(words, bundle)
    for words in inline(page):
        check(words, bundle)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("scintikit indx TREE", "did you mean 'index'"),
        ("scintikit index TREE --outptu D", "did you mean 'output'"),
        ("scintikit run thyroid_cls trainin", "did you mean 'training'"),
        ("scintikit run thyroid_cls training --max_epoch 3", "did you mean 'max_epochs'"),
        ("scintikit run thyroid_cls training --overlay multi_gpu", "no overlay"),
        (
            "torchrun --nproc_per_node=2 -m monai.bundle run training --max_epoch 3 --config_file "
            "\"['bundles/thyroid_cls/configs/train.json','bundles/thyroid_cls/configs/multi_gpu_train.json']\"",
            "did you mean 'max_epochs'",
        ),
    ],
)
def test_check_refuses_what_does_not_exist(command: str, message: str) -> None:
    (words,) = commands(command)
    with pytest.raises(ScintikitError, match=message):
        check(words)


def test_check_refuses_what_lacks_something() -> None:
    with pytest.raises(TypeError, match="output"):
        check(["scintikit", "index", "TREE"])
    with pytest.raises(AssertionError, match="no such target"):
        check(["make", "everything"])
    with pytest.raises(ConfigError):
        check(
            ["python", "-m", "monai.bundle", "run", "training", "--config_file", "bundles/nothing/configs/train.json"]
        )


def test_what_is_found_on_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```bash\nscintikit simulate \\\n  --output D   # so\n```\n\n<!-- not run: a GPU -->\n```\nmake test\n```\n"
        "```python\nmake = 1\n```\n```text\nmake demo\n```\n```\nD/dataset.json   no command\n```\n"
    )
    first, second = blocks(page)
    assert list(commands(first.text)) == [["scintikit", "simulate", "--output", "D"]]
    assert (first.why_not, second.why_not) == (None, "a GPU")
    assert runnable(page) == [first.text]
    (words,) = commands("python -m monai.bundle run training --config_file thyroid_cls/configs/train.json --seed 1")
    given = tools_words(words)
    assert given == ["run", "thyroid_cls", "training", "--seed", "1"]
    assert small(given)[-4:] == ["--max_epochs", "1", "--batch_size", "8"]


@pytest.fixture(scope="module")
def archive(tiny_dataset: str, tiny_bone_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: DICOM_TREE with labels.csv, and NEW_DICOM_FOLDER; simulated, but not marked so."""
    folder = tmp_path_factory.mktemp("archive")
    thyroid, bone = load_dataset(tiny_dataset), load_dataset(tiny_bone_dataset)
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", "centre", "mask"])
        for item in (item for split in thyroid.splits.values() for item in split):
            image, mask = thyroid.root / item["image"], thyroid.root / item["mask"]
            as_acquired(image, folder / "DICOM_TREE" / image.name, item["patient"])
            shutil.copy(mask, folder / "DICOM_TREE")
            table.writerow([image.name, thyroid.labels[item["label"]], item["centre"], mask.name])
    for dataset in (thyroid, bone):
        for item in dataset.splits["test"][:2]:
            image = dataset.root / item["image"]
            as_acquired(image, folder / "NEW_DICOM_FOLDER" / f"{len(item['patient'])}_{image.name}", item["patient"])
    return folder


def as_acquired(source: Path, target: Path, patient: str) -> None:
    scan = read_scintigram(source)
    target.parent.mkdir(exist_ok=True)
    write_scintigram(
        target,
        scan.counts,
        spacing_mm=scan.spacing_mm or (1, 1),
        views=scan.views,
        uid_seed=target.name,
        image_type=scan.image_type,
        body_part=scan.body_part,
        synthetic=False,
    )
    header = pydicom.dcmread(target)
    header.PatientID = patient
    header.save_as(target)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a shell in a copy of the checkout, `CHECKOUT`, whose `python` and `scintikit` are quick."""
    root = tmp_path_factory.mktemp("shell")
    checkout, programs, end = root / "checkout", root / "programs", root / "socket"
    programs.mkdir()
    checkout.mkdir()
    for part in CODE:
        (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, checkout / part)
    call = f'exec "{sys.executable}" -S -E "{SERVER}" call "{end}"'
    quick = f'case "$1 $2" in "-m tools"|"-m monai.bundle") shift; {call} "$@";; esac\nexec "{sys.executable}" "$@"'
    for program, script in (("scintikit", f'{call} tools "$@"'), ("python", quick)):
        (programs / program).write_text(f"#!/bin/sh\n{script}\n")
        (programs / program).chmod(stat.S_IRWXU)
    environment = os.environ | {
        "CHECKOUT": str(checkout),
        "HOME": str(root),
        "SCINTIKIT_HOME": str(root / "cache"),
        "PYTHONPATH": str(checkout),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    shutil.copytree(ROOT / "bundles", checkout / "bundles", ignore=shutil.ignore_patterns("models", "runs", "eval"))
    log = (root / "server.log").open("w")
    server = subprocess.Popen(
        [sys.executable, SERVER, "serve", str(end)], cwd=checkout, env=environment, stdin=subprocess.PIPE, stderr=log
    )
    while not end.exists() and server.poll() is None:
        time.sleep(0.1)
    assert server.poll() is None, (root / "server.log").read_text()
    yield environment
    assert server.stdin is not None
    server.stdin.close()  # which ends it
    server.wait(timeout=30)
    log.close()


@pytest.fixture
def checkout(shell: dict[str, str], archive: Path) -> Path:
    """The copy of the checkout as it was, with the reader's files in it."""
    folder = Path(shell["CHECKOUT"])
    for path in folder.iterdir():
        if path.is_dir() and path.name not in CODE:
            shutil.rmtree(path)
        elif path.name not in CODE:
            path.unlink()
    shutil.copytree(ROOT / "bundles", folder / "bundles", ignore=shutil.ignore_patterns("models", "runs", "eval"))
    return Path(shutil.copytree(archive, folder, dirs_exist_ok=True))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in RUN if runnable(page)], ids=name)
def test_commands_run(page: Path, checkout: Path, shell: dict[str, str]) -> None:
    texts = runnable(page)
    if not any("--output D\n" in text or "--output D " in text for text in texts):
        texts.insert(0, "scintikit index DICOM_TREE --labels labels.csv --external F,H,I --output D\n")
    for text in texts:
        script = f"set -euo pipefail\n{text}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=checkout, env=shell, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_small_yaml_says_nothing_that_no_page_needs() -> None:
    lines = [line for block in blocks(README) for line in block.text.splitlines()]
    skipped = [start for start in SMALL["not_run_in_readme"] if not any(line.startswith(start) for line in lines)]
    run = [
        " ".join(tools_words(words) or []) + " " for page in RUN for text in runnable(page) for words in commands(text)
    ]
    added = [start for start in SMALL["added"] if not any(line.startswith(start + " ") for line in run)]
    assert (skipped, added) == ([], [])
