"""Instructions to token ids and back: sentencepiece, in the form pi0 was trained with."""

import io
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from jaxtyping import Bool, Int
from torch import Tensor

PAD, EOS, BOS, UNK = 0, 1, 2, 3
"""Ids of the special tokens, those of PaliGemma's tokenizer."""
NUM_BYTES = 256
"""Byte tokens, so that any text can be encoded."""


def clean(prompt: str) -> str:
    """One line without underscores and outer white space (openpi, src/openpi/models/tokenizer.py)."""
    return prompt.strip().replace("_", " ").replace("\n", " ")


class Tokenizer:
    """Encodes prompts with a sentencepiece model: its bytes, or the path of its file.

    Raises ValueError when the file is missing, is no sentencepiece model, or has no beginning-of-sentence token.
    """

    def __init__(self, model: bytes | Path | str) -> None:
        source = "the tokenizer" if isinstance(model, bytes) else str(model)
        if not isinstance(model, bytes):
            if not Path(model).is_file():
                raise ValueError(f"tokenizer file {source} does not exist")
            model = Path(model).read_bytes()
        self.model_bytes: bytes = model
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError:
            raise ValueError(f"{source} is not a sentencepiece model ({len(model)} bytes)") from None
        if self._processor.bos_id() < 0:
            raise ValueError(f"{source} has no beginning-of-sentence token, which a pi0 prompt starts with")
        self._row = lru_cache(maxsize=65536)(self._encode_row)

    @property
    def vocab_size(self) -> int:
        """Number of tokens; ids are below it."""
        return int(self._processor.GetPieceSize())

    def encode(self, prompt: str) -> list[int]:
        """[bos] + text + newline; text and newline are encoded apart, as in openpi."""
        text: list[int] = self._processor.Encode(clean(prompt), add_bos=True)
        newline: list[int] = self._processor.Encode("\n")
        return text + newline

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        text: str = self._processor.Decode(list(ids))
        return text

    def encode_batch(self, prompts: Sequence[str], length: int) -> tuple[Int[Tensor, "b l"], Bool[Tensor, "b l"]]:
        """Ids padded on the right with 0 to `length`, and True where a token is real.

        Raises ValueError when a prompt has more tokens than `length`. Each distinct prompt is encoded once.
        """
        rows = [self._row(prompt, length) for prompt in prompts]
        ids = np.stack([row for row, _ in rows])
        num_real = np.array([count for _, count in rows])
        return torch.from_numpy(ids), torch.from_numpy(np.arange(length) < num_real[:, None])

    def _encode_row(self, prompt: str, length: int) -> tuple[np.ndarray, int]:
        ids = self.encode(prompt)
        if len(ids) > length:
            raise ValueError(
                f"prompt {prompt!r} has {len(ids)} tokens, prompt_length is {length}: shorten it or raise prompt_length"
            )
        row = np.full(length, PAD, np.int64)
        row[: len(ids)] = ids
        return row, len(ids)


def train_tokenizer(prompts: Iterable[str], vocab_size: int) -> bytes:
    """A small sentencepiece model (byte pair encoding) of at most `vocab_size` tokens; any text can be encoded.

    The same set of prompts gives the same bytes. Few prompts may not hold enough different pieces for `vocab_size`; the
    model is then smaller. Raises ValueError when `vocab_size` cannot hold the bytes and the characters of the prompts.
    """
    texts = sorted({clean(prompt) for prompt in prompts} - {""})
    if not texts:
        raise ValueError("a tokenizer needs at least one prompt that is not empty")
    characters = len(set("".join(texts).replace(" ", "▁")))
    smallest = NUM_BYTES + UNK + 1 + characters
    if vocab_size < smallest:
        raise ValueError(f"vocab_size is {vocab_size}; these prompts need at least {smallest}")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        pad_id=PAD,
        eos_id=EOS,
        bos_id=BOS,
        unk_id=UNK,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
