"""Instructions to token ids and back, in the form each family was trained with; sentencepiece or a tokenizer.json."""

import io
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import get_args

import numpy as np
import sentencepiece
import tokenizers
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pizero.data.choice import PromptFormat

PAD, EOS, BOS, UNK = 0, 1, 2, 3
"""Ids of the special tokens, those of PaliGemma's tokenizer."""
NUM_BYTES = 256
"""Byte tokens, so that any text can be encoded."""
STATE_EDGES = np.linspace(-1, 1, 257)[:-1]
"""Lower edges of the 256 bins in which pi0.5 reads a state (openpi, src/openpi/models/tokenizer.py)."""


def clean(prompt: str) -> str:
    """One line without underscores and outer white space (openpi, src/openpi/models/tokenizer.py)."""
    return prompt.strip().replace("_", " ").replace("\n", " ")


def check_format(prompt_format: str) -> None:
    """Raises ValueError for a prompt format that does not exist."""
    if prompt_format not in get_args(PromptFormat):
        raise ValueError(f"prompt_format {prompt_format!r} is unknown; choose one of {get_args(PromptFormat)}")


def pieces(prompt: str, prompt_format: PromptFormat, state: Float[np.ndarray, " s"] | None = None) -> tuple[str, ...]:
    """The texts that are encoded, each by itself, after the beginning-of-sentence token.

    "pi0": openpi's, the newline apart. "lerobot-pi0": not cleaned, a newline at the end. "open-pi-zero": not cleaned,
    one more newline, whatever the end. "pi05": with the bins of the normalised, unpadded `state`, as openpi and
    lerobot. "pi05-stateless": lerobot's without a state.
    """
    match prompt_format:
        case "pi0":
            return clean(prompt), "\n"
        case "lerobot-pi0":
            return (prompt if prompt.endswith("\n") else prompt + "\n",)
        case "open-pi-zero":
            return (prompt + "\n",)
        case "pi05-stateless":
            return (f"Task: {clean(prompt)};\nAction: ",)
        case "pi05":
            if state is None:
                raise ValueError("prompt_format 'pi05' writes the state into the prompt, but none was given")
            bins = " ".join(str(number) for number in state_bins(state))
            return (f"Task: {clean(prompt)}, State: {bins};\nAction: ",)


def state_bins(state: Float[np.ndarray, " s"]) -> Int[np.ndarray, " s"]:
    """Number of the bin that each value falls into: 0 to 255 from -1 to 1, 255 beyond, -1 below -1."""
    return np.digitize(state, STATE_EDGES) - 1


class Tokenizer:
    """Encodes prompts with a sentencepiece model or a Hugging Face tokenizer.json: its bytes, or the path of its file.

    Raises ValueError when the file is missing, is neither, or has no beginning-of-sentence token.
    """

    def __init__(self, model: bytes | Path | str) -> None:
        source = "the tokenizer" if isinstance(model, bytes) else str(model)
        if not isinstance(model, bytes):
            if not Path(model).is_file():
                raise ValueError(f"tokenizer file {source} does not exist")
            model = Path(model).read_bytes()
        self.model_bytes: bytes = model
        is_json = model.startswith(b"{")  # a sentencepiece model, a protobuf, begins with the tag of its pieces
        self._model = _HuggingFace(model, source) if is_json else _SentencePiece(model, source)
        self._row = lru_cache(maxsize=65536)(self._encode_row)

    @property
    def file_name(self) -> str:
        """What the file of `model_bytes` is called in a checkpoint."""
        return self._model.file_name

    @property
    def vocab_size(self) -> int:
        """Number of tokens; the ids of a prompt are below it."""
        return self._model.vocab_size

    def encode(
        self, prompt: str, prompt_format: PromptFormat = "pi0", state: Float[np.ndarray, " s"] | None = None
    ) -> list[int]:
        """Ids of a prompt, the beginning-of-sentence token first; `state` as for `pieces`."""
        return self.encode_pieces(pieces(prompt, prompt_format, state))

    def encode_pieces(self, texts: Sequence[str]) -> list[int]:
        """The beginning-of-sentence token, then the ids of each text."""
        return [self._model.bos, *(token for text in texts for token in self._model.encode(text))]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        return self._model.decode(list(ids))

    def encode_batch(
        self,
        prompts: Sequence[str],
        length: int,
        prompt_format: PromptFormat = "pi0",
        states: Float[np.ndarray, "b s"] | None = None,
    ) -> tuple[Int[Tensor, "b l"], Bool[Tensor, "b l"]]:
        """Ids padded on the right with 0 to `length`, and True where a token is real; `states` as for `pieces`.

        Raises ValueError when a prompt has more tokens than `length`. Each distinct prompt is encoded once, but for
        those with a state, which hardly ever come again.
        """
        if prompt_format == "pi05" and states is not None:
            texts = [pieces(prompt, prompt_format, state) for prompt, state in zip(prompts, states, strict=True)]
            rows = [self._encode_row(text, length) for text in texts]
        else:
            rows = [self._row(pieces(prompt, prompt_format), length) for prompt in prompts]
        ids = np.stack([row for row, _ in rows])
        num_real = np.array([count for _, count in rows])
        return torch.from_numpy(ids), torch.from_numpy(np.arange(length) < num_real[:, None])

    def _encode_row(self, texts: tuple[str, ...], length: int) -> tuple[np.ndarray, int]:
        return pad_row(self.encode_pieces(texts), length, "".join(texts))


def pad_row(ids: Sequence[int], length: int, text: str) -> tuple[Int[np.ndarray, " l"], int]:
    """Ids padded on the right to `length`, and how many are real. Raises ValueError, with the `text`, for too many."""
    if len(ids) > length:
        raise ValueError(
            f"prompt {text.strip()!r} has {len(ids)} tokens, prompt_length is {length}: "
            "shorten it or raise prompt_length"
        )
    row = np.full(length, PAD, np.int64)
    row[: len(ids)] = ids
    return row, len(ids)


class _SentencePiece:
    """A sentencepiece model, as openpi and PaliGemma's authors publish it."""

    file_name = "tokenizer.model"

    def __init__(self, model: bytes, source: str) -> None:
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError:
            raise ValueError(f"{source} is not a sentencepiece model ({len(model)} bytes)") from None
        self.bos: int = self._processor.bos_id()
        if self.bos < 0:
            raise ValueError(f"{source} has no beginning-of-sentence token, which a pi0 prompt starts with")
        self.vocab_size = int(self._processor.GetPieceSize())

    def encode(self, text: str) -> list[int]:
        return self._processor.Encode(text)

    def decode(self, ids: list[int]) -> str:
        return self._processor.Decode(ids)


class _HuggingFace:
    """A tokenizer.json, as lerobot and transformers store it."""

    file_name = "tokenizer.json"

    def __init__(self, model: bytes, source: str) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(model)
        except ValueError as error:
            raise ValueError(f"{source} is not a tokenizer.json of Hugging Face: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # Words like <image> in an instruction are text, as for sentencepiece: their ids are for no embedding of a pi0.
        self._tokenizer.encode_special_tokens = True
        bos = self._tokenizer.token_to_id("<bos>")
        if bos is None:
            raise ValueError(f"{source} has no token <bos>, which a pi0 prompt starts with")
        self.bos: int = bos
        # Here the file itself says what stands round a text; a pi0 prompt begins with <bos>, and nothing else is added.
        added = self._tokenizer.encode("").ids
        if added not in ([], [bos]):
            raise ValueError(f"{source} adds the tokens {added} to a text; a pi0 prompt takes <bos> = {bos} in front")
        special = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special and i > bos}
        self.vocab_size = 1 + max(i for i in self._tokenizer.get_vocab().values() if i not in special)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids)


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
