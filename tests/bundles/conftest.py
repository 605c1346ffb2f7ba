"""What tests of several generators share: eight pictures, and the words of a tiny pretrained text encoder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from scintikit.errors import ConfigError

FIRST, LAST = "<|startoftext|>", "<|endoftext|>"


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Several threads gain nothing on small networks, and where others compute too they wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> AbstractContextManager[None]:
    """A training in this context dies when its first epoch is saved."""
    from scintikit.engines import Checkpoints

    class Killed(Exception):
        pass

    keep = Checkpoints._keep

    def keep_and_die(self: Checkpoints, engine: Any) -> None:
        keep(self, engine)
        raise Killed

    @contextmanager
    def context() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "_keep", keep_and_die)
            with pytest.raises(ConfigError, match="Killed"):
                yield

    return context()


@pytest.fixture(scope="session")
def eight(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset with two training pictures of each of four classes, and one of each to validate."""
    folder = Path(shutil.copytree(tiny_dataset, tmp_path_factory.mktemp("eight") / "dataset"))
    content = json.loads((folder / "dataset.json").read_text())
    for split, count in (("training", 2), ("validation", 1)):
        by_label: dict[int, list[Any]] = {}
        for item in content[split]:
            by_label.setdefault(item["label"], []).append(item)
        content[split] = [item for items in by_label.values() for item in items[:count]]
    (folder / "dataset.json").write_text(json.dumps(content))
    return str(folder)


@pytest.fixture(scope="session")
def open_gate() -> Callable[[Path], None]:
    """Let every picture of a model pass: those of a tiny network are no scintigrams."""

    def make(folder: Path) -> None:
        content = torch.load(folder / "generation.pt", weights_only=True)
        open_gate = {"gate": {}, "diversity": dict.fromkeys(content["diversity"], 1e-9)}
        torch.save(content | open_gate, folder / "generation.pt")

    return make


@pytest.fixture(scope="session")
def write_clip_tokenizer() -> Callable[[Path, list[str]], int]:
    """Write CLIP's files with sub-words of some prompts to a folder; return how many."""

    def write(folder: Path, prompts: list[str]) -> int:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        words = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=LAST))
        words.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)])
        trainer = trainers.BpeTrainer(
            vocab_size=1000,
            special_tokens=[FIRST, LAST],
            end_of_word_suffix="</w>",
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        words.train_from_iterator([prompt.lower() for prompt in prompts], trainer)
        folder.mkdir(exist_ok=True)
        words.model.save(str(folder))
        special = {"bos_token": FIRST, "eos_token": LAST, "unk_token": LAST, "pad_token": LAST}
        (folder / "special_tokens_map.json").write_text(json.dumps(special))
        (folder / "tokenizer_config.json").write_text(
            json.dumps(special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77})
        )
        return words.get_vocab_size()

    return write
