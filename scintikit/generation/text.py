"""Prompts as numbers: which words there are, and how a prompt becomes tokens."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch

from scintikit.errors import ConfigError, DatasetError

logger = logging.getLogger(__name__)

PAD, START, UNKNOWN = 0, 1, 2
#: Pads sub-words: no token has this number.
NO_TOKEN = -1
_SPECIAL = 3
_WORD = re.compile(r"[^\W_]+(?:[-'./][^\W_]+)*|,")


class Tokenizer(Protocol):
    """Turns prompts into token numbers."""

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return tokens `(B, L)`, int64; those of "" stand for no prompt."""
        ...


class HasVocabulary(Protocol):
    """Knows the words a model was trained with, `scintikit.generation.TrainingStatistics` for instance."""

    @property
    def vocabulary(self) -> Sequence[str]:
        """The words, in the order of their numbers."""
        ...


class HasTokenizer(Protocol):
    """A checkpoint of a text encoder, such as `scintikit.generation.TextCheckpoint`."""

    @property
    def longest_prompt(self) -> int:
        """How many tokens the text encoder reads."""
        ...

    def tokenizer(self) -> Any:
        """Return transformers' tokenizer."""
        ...


def words(prompt: str) -> list[str]:
    """Return the words of a prompt in lower case; a comma is a word too, for it parts the statements."""
    return _WORD.findall(prompt.lower())


def count_words(prompts: Iterable[str], size: int) -> list[str]:
    """Return the vocabulary of the prompts: the most frequent words, at most `size` - 3, in a fixed order."""
    counter = Counter(word for prompt in prompts for word in words(prompt))
    ranked = sorted(counter, key=lambda word: (-counter[word], word))
    return ranked[: size - _SPECIAL]


class PromptFaults:
    """Tell once, or refuse, what a network will not see of a prompt.

    Parameters
    ----------
    strict
        Refuse.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self._told: set[str] = set()

    def __call__(self, prompt: str, faults: Sequence[str]) -> None:
        """Judge a prompt with these faults, if any; raises `DatasetError` if strict."""
        if not faults:
            return
        fault = f"prompt {prompt!r}: {'; '.join(faults)}"
        if self.strict:
            raise DatasetError(f"{fault}. Shorten or reword it, or give --strict False")
        if prompt not in self._told:
            self._told.add(prompt)
            logger.warning("%s", fault)


class WordTokenizer:
    """Give each word of a vocabulary a number; 0 pads, 1 starts every prompt, 2 is any other word.

    A grammar of a few hundred words needs no sub-words, and whole words can be listed in a model card.

    Parameters
    ----------
    vocabulary
        The words; or something that returns them on first use, so that a config resolves without a model.
    length
        Tokens of a prompt, the start included.
    strict
        Refuse prompts that are longer or hold an unknown word, instead of a warning.

    Raises
    ------
    ConfigError
        If the length leaves no room for a word.
    """

    def __init__(self, vocabulary: Sequence[str] | HasVocabulary, length: int = 64, strict: bool = False) -> None:
        if length < 2:
            raise ConfigError(f"the context has {length} tokens; expected at least 2")
        self._vocabulary = vocabulary
        self.length = length
        self._faults = PromptFaults(strict)

    @cached_property
    def vocabulary(self) -> list[str]:
        """The words; the first has number 3."""
        found = self._vocabulary
        return list(found if isinstance(found, Sequence) else found.vocabulary)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each word."""
        return {word: number for number, word in enumerate(self.vocabulary, _SPECIAL)}

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return tokens `(B, length)`, int64.

        Raises
        ------
        DatasetError
            With `strict`, if a prompt is too long or holds an unknown word.
        """
        tokens = torch.full((len(prompts), self.length), PAD)
        for row, prompt in zip(tokens, prompts, strict=True):
            found = words(prompt)
            self._faults(prompt, self._faults_of(found))
            numbers = [START, *(self.numbers.get(word, UNKNOWN) for word in found)][: self.length]
            row[: len(numbers)] = torch.tensor(numbers)
        return tokens

    def _faults_of(self, found: list[str]) -> list[str]:
        """Return what the network will not see of a prompt's words."""
        cut = found[self.length - 1 :]
        unknown = [word for word in found if word not in self.numbers]
        faults = [f"its last {len(cut)} of {len(found)} words do not fit, from {cut[0]!r} on"] if cut else []
        if unknown:
            faults.append(f"the model has not learned {', '.join(map(repr, dict.fromkeys(unknown)))}")
        return faults


class SubwordTokenizer:
    """The sub-words of a pretrained text encoder, -1 where a prompt has ended.

    Checkpoints pad in many ways, CLIP's with the very token that ends a prompt. A number that no token has tells
    padding from words with all of them.

    Parameters
    ----------
    checkpoint
        Brings the tokenizer of transformers.
    length
        Tokens of a prompt, at most; fewer if the text encoder reads fewer.
    strict
        Refuse prompts that are longer, instead of a warning.

    Raises
    ------
    ConfigError
        If the length leaves no room for a word.
    """

    def __init__(self, checkpoint: HasTokenizer, length: int = 77, strict: bool = False) -> None:
        self.checkpoint = checkpoint
        self.length = min(length, checkpoint.longest_prompt)
        if self.length < 3:
            raise ConfigError(f"the context has {self.length} tokens; expected at least 3")
        self._faults = PromptFaults(strict)

    @cached_property
    def tokenizer(self) -> Any:
        """What the checkpoint brings.

        Raises
        ------
        ConfigError
            If no prompt is no token at all, which no text encoder can read.
        """
        tokenizer = self.checkpoint.tokenizer()
        if not tokenizer("")["input_ids"]:
            raise ConfigError(
                f"{type(tokenizer).__name__} adds no token that starts or ends a prompt; take a text encoder that has "
                "one, such as CLIP or BERT"
            )
        return tokenizer

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return tokens `(B, length)`, int64.

        Raises
        ------
        DatasetError
            With `strict`, if a prompt is too long.
        """
        tokens = torch.full((len(prompts), self.length), NO_TOKEN)
        whole = self.tokenizer(list(prompts), verbose=False)["input_ids"]
        kept = self.tokenizer(list(prompts), truncation=True, max_length=self.length)["input_ids"]
        for row, prompt, numbers, all_numbers in zip(tokens, prompts, kept, whole, strict=True):
            self._faults(prompt, self._faults_of(all_numbers))
            row[: len(numbers)] = torch.tensor(numbers)
        return tokens

    def _faults_of(self, numbers: list[int]) -> list[str]:
        """Return what the text encoder will not see of a prompt's tokens."""
        if len(numbers) <= self.length:
            return []
        # The last token kept is the one that ends a prompt.
        cut = self.tokenizer.decode(numbers[self.length - 1 :], skip_special_tokens=True)
        return [f"its last {len(numbers) - self.length} of {len(numbers)} tokens do not fit, {cut!r}"]
