from pathlib import Path

import pytest
import torch

from pizero.data.prompt import Tokenizer, clean, train_tokenizer

PROMPTS = ["open the drawer", "close the window", "push the puck to the goal"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_tokenizer(PROMPTS, 320))


def test_cleaning_is_openpis() -> None:
    assert clean("  pick_up_the\nblock \n") == "pick up the block"
    assert clean("open   the drawer") == "open   the drawer"


def test_a_prompt_is_bos_text_newline_without_end_token(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("open_the drawer\n")
    newline = 4 + ord("\n")  # the byte tokens follow pad, eos, bos, unk
    assert ids[0] == 2
    assert ids[-1] == newline
    assert 1 not in ids
    assert ids == tokenizer.encode("open the drawer")
    assert ids != tokenizer.encode("close the window")


def test_any_text_is_encoded_without_unknown_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("été ☕ 机器人")
    assert 3 not in ids
    assert max(ids) < tokenizer.vocab_size


def test_batches_are_padded_on_the_right_and_masked(tokenizer: Tokenizer) -> None:
    prompts = ["open the drawer", "", "push the puck to the goal"]
    ids, mask = tokenizer.encode_batch(prompts, 12)
    assert ids.dtype == torch.int64
    assert ids.shape == mask.shape == (3, 12)
    for row, prompt in enumerate(prompts):
        expected = tokenizer.encode(prompt)
        assert ids[row].tolist() == expected + [0] * (12 - len(expected))
        assert mask[row].tolist() == [True] * len(expected) + [False] * (12 - len(expected))
    assert mask[1].sum() == 2


def test_a_prompt_too_long_is_refused_with_both_numbers(tokenizer: Tokenizer) -> None:
    length = len(tokenizer.encode(PROMPTS[2]))
    assert tokenizer.encode_batch([PROMPTS[2]], length)[1].all()
    with pytest.raises(ValueError, match=rf"has {length} tokens, prompt_length is {length - 1}"):
        tokenizer.encode_batch([PROMPTS[2]], length - 1)


def test_the_same_prompts_train_the_same_bytes() -> None:
    assert train_tokenizer(PROMPTS, 320) == train_tokenizer([*reversed(PROMPTS), PROMPTS[0] + " "], 320)


def test_the_vocabulary_is_at_most_what_was_asked() -> None:
    assert Tokenizer(train_tokenizer(PROMPTS, 290)).vocab_size == 290
    assert Tokenizer(train_tokenizer(PROMPTS, 5000)).vocab_size < 400


def test_a_vocabulary_too_small_says_how_many_it_takes() -> None:
    with pytest.raises(ValueError, match="need at least") as error:
        train_tokenizer(PROMPTS, 100)
    smallest = int(str(error.value).split()[-1])
    assert Tokenizer(train_tokenizer(PROMPTS, smallest)).vocab_size == smallest
    with pytest.raises(ValueError, match="need at least"):
        train_tokenizer(PROMPTS, smallest - 1)
    with pytest.raises(ValueError, match="at least one prompt"):
        train_tokenizer(["", " \n"], 300)


def test_a_tokenizer_survives_its_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(tokenizer.model_bytes)
    assert Tokenizer(path).encode(PROMPTS[1]) == tokenizer.encode(PROMPTS[1])


def test_what_is_no_tokenizer_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing.model does not exist"):
        Tokenizer(tmp_path / "missing.model")
    (tmp_path / "bad.model").write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"bad.model is not a sentencepiece model"):
        Tokenizer(tmp_path / "bad.model")
    with pytest.raises(ValueError, match="not a sentencepiece model"):
        Tokenizer(b"")
