import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch

from pizero.data.prompt import Tokenizer, check_format, clean, pieces, state_bins, train_tokenizer

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


@pytest.mark.parametrize(
    ("prompt_format", "expected"),
    [
        ("pi0", ("open the drawer", "\n")),
        ("lerobot-pi0", (" open_the drawer\n",)),
        ("open-pi-zero", (" open_the drawer\n\n",)),
        ("pi05", ("Task: open the drawer, State: 0 255;\nAction: ",)),
        ("pi05-stateless", ("Task: open the drawer;\nAction: ",)),
    ],
)
def test_each_family_writes_a_prompt_in_its_own_way(tokenizer: Tokenizer, prompt_format: str, expected: tuple) -> None:
    state = np.array([-1.0, 1.0])
    assert pieces(" open_the drawer\n", prompt_format, state) == expected
    ids = tokenizer.encode(" open_the drawer\n", prompt_format, state)
    assert ids[0] == 2
    assert tokenizer.decode(ids) == "".join(expected)


def test_state_bins_are_below_from_and_beyond() -> None:
    edge = np.float32(0.99)
    state = np.array([-1.5, np.nextafter(-1, -2), -1, -0.9921875, 0, 0.9921874, 0.9921875, 1, 7])
    assert state_bins(state).tolist() == [-1, -1, 0, 1, 128, 254, 255, 255, 255]
    assert state_bins(np.array([edge, -edge], np.float32)).tolist() == [254, 1]


def test_the_states_of_a_batch_are_each_in_their_own_prompt(tokenizer: Tokenizer) -> None:
    states = np.array([[0.0, 1.0], [-1.0, 0.5]])
    ids, mask = tokenizer.encode_batch(["close it"] * 2, 60, "pi05", states)
    for row, text in enumerate(("128 255", "0 192")):
        assert tokenizer.decode(ids[row][mask[row]].tolist()) == f"Task: close it, State: {text};\nAction: "
    with pytest.raises(ValueError, match="tokens, prompt_length is 20"):
        tokenizer.encode_batch(["close it"] * 2, 20, "pi05", states)
    with pytest.raises(ValueError, match="writes the state into the prompt, but none was given"):
        tokenizer.encode_batch(["close it"], 60, "pi05")


def test_an_unknown_format_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"prompt_format 'pi5' is unknown; choose one of \('pi0', .*'pi05-stateless'\)"
    ):
        check_format("pi5")


def hugging_face(bos_in_front: bool, **more: object) -> dict:
    """A tokenizer.json with one token for each letter; <image>, far above, is for no embedding."""
    special = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3}
    letters = {letter: 4 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz \n<>")}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(special | letters, [], unk_token="<unk>"))
    model.add_special_tokens([*special, "<image>"])
    if bos_in_front:
        model.post_processor = tokenizers.processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 2)])
    model.enable_truncation(3)
    model.enable_padding(length=9)
    return json.loads(model.to_str()) | more


@pytest.mark.parametrize("bos_in_front", [True, False])
def test_a_tokenizer_json_begins_a_prompt_with_one_bos_whatever_it_says_itself(bos_in_front: bool) -> None:
    data = json.dumps(hugging_face(bos_in_front)).encode()
    tokenizer = Tokenizer(data)
    assert tokenizer.encode("ab_a") == [2, 4, 5, 30, 4, 31]
    assert tokenizer.encode("ab", "lerobot-pi0") == [2, 4, 5, 31]
    assert tokenizer.decode([2, 4, 5, 31]).replace(" ", "") == "ab\n"
    assert tokenizer.vocab_size == 34  # ids of text, not <image>, which is 34
    assert (tokenizer.file_name, tokenizer.model_bytes) == ("tokenizer.json", data)


def test_a_special_token_in_an_instruction_is_text() -> None:
    ids = Tokenizer(json.dumps(hugging_face(True)).encode()).encode("a<image>")
    assert max(ids) < 34
    assert len(ids) == 1 + len("a<image>") + 1


def test_a_json_that_is_no_tokenizer_for_pi0_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"version": "1.0"}')
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer\.json of Hugging Face"):
        Tokenizer(path)
    data = hugging_face(False)
    text = json.dumps(data).replace("<bos>", "<bot>")
    with pytest.raises(ValueError, match="has no token <bos>"):
        Tokenizer(text.encode())
    template = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<eos>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<eos>": {"id": "<eos>", "ids": [1], "tokens": ["<eos>"]}},
    }
    with pytest.raises(ValueError, match=r"adds the tokens \[1\] to a text; a pi0 prompt takes <bos> = 2 in front"):
        Tokenizer(json.dumps(data | {"post_processor": template}).encode())


def test_a_sentencepiece_model_is_saved_as_tokenizer_model(tokenizer: Tokenizer) -> None:
    assert tokenizer.file_name == "tokenizer.model"
