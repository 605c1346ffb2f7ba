"""Prompts become tokens, and nothing of them is lost in silence."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scintikit.errors import ConfigError, DatasetError
from scintikit.generation import WordTokenizer, count_words
from scintikit.generation.text import PAD, START, UNKNOWN, words
from scintikit.phantoms import draw_patient, findings, prompt

PROMPTS = ["Anterior scan, hot nodule", "anterior scan, cold nodule", "scan"]


def test_words_are_whole_and_lower_case() -> None:
    assert words("Tc-99m scan: HOT nodule, left lobe.") == ["tc-99m", "scan", "hot", "nodule", ",", "left", "lobe"]
    assert words("  ") == []
    assert words("Schilddrüse größer") == ["schilddrüse", "größer"]


def test_vocabulary_is_the_most_frequent_words_in_a_fixed_order() -> None:
    assert count_words(PROMPTS, 256) == ["scan", ",", "anterior", "nodule", "cold", "hot"]
    assert count_words(reversed(PROMPTS), 256) == count_words(PROMPTS, 256)
    assert count_words(PROMPTS, 5) == ["scan", ","]


def test_simulated_prompts_fit_the_defaults_of_the_bundle() -> None:
    every = []
    for label in range(4):
        for k in range(100):
            rng = np.random.default_rng((label, k))
            every.append(prompt(findings(draw_patient(label, rng)), rng))
    vocabulary = count_words(every, 256)
    assert len(vocabulary) < 256 - 3
    tokens = WordTokenizer(vocabulary, 64, strict=True)(every)
    assert tokens.shape == (400, 64)
    assert not (tokens == UNKNOWN).any()
    assert (tokens[:, -1] == PAD).all()
    assert len({tuple(row) for row in tokens.tolist()}) == len({text.lower() for text in every})


def test_tokens_start_pad_and_know_what_they_do_not_know(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = WordTokenizer(count_words(PROMPTS, 256), length=6)
    with caplog.at_level(logging.WARNING):
        tokens = tokenizer(["hot scan", "", "warm scan"])
        tokenizer(["warm scan"])
    assert tokens.dtype == torch.int64
    assert tokens[0].tolist() == [START, 8, 3, PAD, PAD, PAD]
    assert tokens[1].tolist() == [START, PAD, PAD, PAD, PAD, PAD]
    assert tokens[2, 1] == UNKNOWN
    assert [record.message for record in caplog.records] == [
        "prompt 'warm scan': the model has not learned 'warm'"  # told once
    ]


def test_long_prompt_is_cut_with_a_warning_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    vocabulary = count_words(PROMPTS, 256)
    with caplog.at_level(logging.WARNING):
        cut = WordTokenizer(vocabulary, length=4)(["anterior scan, hot nodule"])
    assert cut.tolist() == WordTokenizer(vocabulary, length=4)(["anterior scan,"]).tolist()
    assert "its last 2 of 5 words do not fit, from 'hot' on" in caplog.text
    with pytest.raises(DatasetError, match="its last 2 of 5 words do not fit"):
        WordTokenizer(vocabulary, length=4, strict=True)(["anterior scan, hot nodule"])
    with pytest.raises(DatasetError, match="has not learned 'warm'"):
        WordTokenizer(vocabulary, length=9, strict=True)(["warm nodule"])
    with pytest.raises(ConfigError, match="expected at least 2"):
        WordTokenizer(vocabulary, length=1)


def test_vocabulary_of_a_model_is_read_on_first_use() -> None:
    class Statistics:
        reads = 0

        @property
        def vocabulary(self) -> list[str]:
            self.reads += 1
            return ["scan"]

    statistics = Statistics()
    tokenizer = WordTokenizer(statistics)
    assert statistics.reads == 0
    tokenizer(["scan"])
    tokenizer(["scan"])
    assert statistics.reads == 1
    assert WordTokenizer(SimpleNamespace(vocabulary=["scan"]))(["scan"])[0, 1] == 3
