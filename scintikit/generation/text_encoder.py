"""A pretrained text encoder in the place of the one that is trained along: CLIP's text tower, BERT and the like.

Needs the extra `sd`, which is imported on first use.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import torch
from torch import nn

from scintikit.errors import ConfigError
from scintikit.generation.hub import (
    WEIGHT_ENDS,
    Frozen,
    check_weights,
    files_sha256,
    locate,
    optional,
    read_network,
    refuse_missing,
    weight_files,
)
from scintikit.generation.text import NO_TOKEN, SubwordTokenizer

STEM = "model"
CONFIG = "config.json"
#: Tells of a checkpoint that open_clip wrote.
OPEN_CLIP = "open_clip_config.json"
#: Any one of these holds the tokens.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", *VOCABULARIES)


class TextCheckpoint:
    """A text encoder as transformers writes it: a folder, or a name on Hugging Face's hub, that is fetched then.

    Weights are read from safetensors files only, and code that a checkpoint brings is not run.

    Parameters
    ----------
    name
        Such as `/data/clip` or `openai/clip-vit-large-patch14`. Of a checkpoint with a tower for pictures and one for
        text, as CLIP's, the latter is taken.

    Raises
    ------
    ConfigError
        If there is no such folder or name, weights are pickled only, or it is no text encoder that transformers knows.
    MissingExtraError
        Without the extra `sd`.
    """

    def __init__(self, name: str | None) -> None:
        if not name:
            raise ConfigError(
                "text_encoder is not given; name a folder that transformers wrote, or a model of the hub: "
                "--text_encoder openai/clip-vit-large-patch14"
            )
        optional("transformers", "__version__")
        patterns = [CONFIG, OPEN_CLIP, *TOKENIZER_FILES, *(f"{STEM}{end}" for end in WEIGHT_ENDS)]
        self.path = locate("text_encoder", name, patterns)
        self._check_layout()
        check_weights(self.path, STEM)
        self._check_kind()

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of everything that is used."""
        words = (self.path / name for name in TOKENIZER_FILES)
        files = [self.path / CONFIG, *(path for path in words if path.is_file()), *weight_files(self.path, STEM)]
        return files_sha256(self.path, files)

    @cached_property
    def config(self) -> Any:
        """Transformers' configuration of the text encoder; raises `ConfigError` if it knows none of that kind."""
        try:
            whole = optional("transformers", "AutoConfig").from_pretrained(
                self.path, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"transformers cannot read {self.path / CONFIG} ({str(error).strip().partition(chr(10))[0]}); expected "
                "a text encoder that it knows without the checkpoint's own code, such as CLIP or BERT"
            ) from error
        return whole.get_text_config()

    @property
    def width(self) -> int:
        """Numbers by which it describes a token."""
        return int(self.config.hidden_size)

    @property
    def longest_prompt(self) -> int:
        """How many tokens it reads."""
        return min(int(self.config.max_position_embeddings), int(self.tokenizer().model_max_length))

    def tokenizer(self) -> Any:
        """Return transformers' tokenizer."""
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Any:
        # Without this, transformers would make up a tokenizer that knows no word.
        if not any((self.path / name).is_file() for name in VOCABULARIES):
            raise ConfigError(f"{self.path} has no tokenizer; expected one of {', '.join(VOCABULARIES)}")
        return optional("transformers", "AutoTokenizer").from_pretrained(
            self.path, local_files_only=True, trust_remote_code=False
        )

    def network(self) -> nn.Module:
        """Return the text encoder with its weights in float32.

        Raises
        ------
        ConfigError
            If the file lacks tensors, which would be left random.
        """
        auto = optional("transformers", "AutoModel")
        whole, missing = read_network(auto, self.path, trust_remote_code=False)
        text = getattr(whole, "text_model", whole)
        used = set(map(id, text.parameters()))
        # A pooler makes one answer of all tokens. It is not asked here, and checkpoints of language models have none.
        needed = {name for name, weight in whole.named_parameters() if id(weight) in used and "pooler." not in name}
        refuse_missing([name for name in missing if name in needed], self.path, type(text).__name__)
        return text

    def _check_layout(self) -> None:
        """Raise `ConfigError` if transformers did not write the folder."""
        if (self.path / CONFIG).is_file():
            return
        if not (self.path / OPEN_CLIP).is_file():
            raise ConfigError(
                f"{self.path} has no {CONFIG}; expected the files that transformers' save_pretrained writes"
            )
        settings = json.loads((self.path / OPEN_CLIP).read_text(encoding="utf-8"))
        base = settings.get("model_cfg", {}).get("text_cfg", {}).get("hf_model_name")
        raise ConfigError(
            f"{self.path} is in the layout of open_clip, which transformers cannot read. Name a folder to which the "
            "text tower was written with transformers' save_pretrained"
            + (f", or the text encoder from which its training started, {base}" if base else "")
        )

    def _check_kind(self) -> None:
        """Raise `ConfigError` for networks that read no text, or not in this way, or other words."""
        config = self.config
        wanted = ("vocab_size", "hidden_size", "max_position_embeddings")
        if getattr(config, "is_encoder_decoder", False) or any(getattr(config, name, None) is None for name in wanted):
            raise ConfigError(
                f"{self.path} holds a {config.model_type}; expected a text encoder with places for tokens, such as "
                "CLIP or BERT"
            )
        if len(self.tokenizer()) > config.vocab_size:
            raise ConfigError(
                f"the tokenizer in {self.path} has {len(self.tokenizer())} tokens, the text encoder knows "
                f"{config.vocab_size}; expected files of one checkpoint"
            )


class FrozenTextEncoder(nn.Module):
    """Reads prompts with a pretrained text encoder, which stays as it is; a small layer over it is trained.

    It can stand for the bundle's `PromptEncoder`. Its first answer is a summary, the mean over the tokens: a causal
    encoder's own first token, as CLIP's, has seen nothing of the prompt.

    Parameters
    ----------
    checkpoint
        Of the text encoder.
    tokenizer
        Of the prompts; knows the tokens of no prompt.
    width
        Numbers by which a token is described to the denoiser.
    """

    def __init__(self, checkpoint: TextCheckpoint, tokenizer: SubwordTokenizer, width: int = 96) -> None:
        super().__init__()
        self.adapter = nn.Sequential(nn.LayerNorm(checkpoint.width), nn.Linear(checkpoint.width, width))
        self._encoder = Frozen(checkpoint.network())
        self._no_prompt = tokenizer([""])[0]
        self._read = (self._no_prompt[:0], torch.empty(0))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return a summary and what each token means, `(B, 1 + L, width)`, 0 for padding, from tokens `(B, L)`."""
        words = (tokens != NO_TOKEN)[..., None]
        meaning = self.adapter(self._hidden(tokens)).masked_fill(~words, 0)
        summary = meaning.sum(dim=1, keepdim=True) / words.sum(dim=1, keepdim=True)
        return torch.cat([summary, meaning], dim=1)

    def no_prompt(self) -> torch.Tensor:
        """Return the tokens `(L,)` of no prompt."""
        return self._no_prompt

    def _hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what the pretrained encoder says of each token, `(B, L, its width)`, in float32.

        Sampling asks for the same tokens at each of its steps, so the latest answer is kept.
        """
        latest, hidden = self._read
        if latest.device != tokens.device or not torch.equal(latest, tokens):
            words = tokens != NO_TOKEN
            # Float32 whatever the others compute in: an answer must not depend on who asked first.
            with torch.autocast(tokens.device.type, enabled=False):
                hidden = self._encoder(tokens.where(words, 0), attention_mask=words.long()).last_hidden_state
            self._read = (tokens, hidden)
        return hidden
