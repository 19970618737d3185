"""Prompts with and without each fault."""

import pytest

from pizero.data.doctor_prompt import MANY, check_texts, check_tokens, check_unlabelled
from pizero.data.prompt import Tokenizer, train_tokenizer

PROMPTS = ("open the drawer", "close it")
LONG = "pick up the red block and put it on the blue plate, then open the drawer"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_tokenizer((*PROMPTS, LONG), 300))


def test_good_prompts_have_no_finding(tokenizer: Tokenizer) -> None:
    assert check_texts(PROMPTS, [10, 5]) == []
    assert check_tokens(PROMPTS, 48, "pi0", 8, tokenizer) == []
    assert check_tokens(PROMPTS, 48, "pi0", 8, None) == []


def test_empty_prompts_are_counted_in_frames() -> None:
    (finding,) = check_texts((*PROMPTS, " \n"), [10, 5, 15])
    assert finding.level == "warning"
    assert "50 % of the frames is empty" in finding.text


def test_prompts_that_differ_only_in_writing_are_found() -> None:
    (finding,) = check_texts((*PROMPTS, "Open the  drawer."), [1, 1, 1])
    assert "'open the drawer' = 'Open the  drawer.'" in finding.text
    assert finding.level == "note"


def test_very_many_prompts_are_noted() -> None:
    prompts = [f"take number {i}" for i in range(MANY + 1)]
    assert f"{MANY + 1} different prompts" in check_texts(prompts, [1] * len(prompts))[0].text


def test_a_prompt_is_too_long_by_its_tokens_and_what_would_be_cut_is_shown(tokenizer: Tokenizer) -> None:
    count = len(tokenizer.encode(LONG))
    (finding,) = check_tokens((*PROMPTS, LONG), count - 1, "pi0", 8, tokenizer)
    assert finding.level == "error"
    assert f"1 of 3 prompts have more than {count - 1} tokens, up to {count}" in finding.text
    assert f"--data.prompt-length {count}" in finding.advice
    assert check_tokens((*PROMPTS, LONG), count, "pi0", 8, tokenizer) == []


def test_a_state_in_the_prompt_counts(tokenizer: Tokenizer) -> None:
    length = len(tokenizer.encode("close it")) + 20
    assert check_tokens(("close it",), length, "pi0", 14, tokenizer) == []
    assert len(check_tokens(("close it",), length, "pi05", 14, tokenizer)) == 1


def test_without_a_tokenizer_letters_are_counted() -> None:
    (finding,) = check_tokens((LONG,), 12, "pi0", 8, None)
    assert finding.level == "warning"
    assert f"about {2 + len(LONG) // 4}, by letters" in finding.text


def test_episodes_without_an_instruction_are_told() -> None:
    assert "3 of 10 episodes" in check_unlabelled(3, 7)[0].text
    assert check_unlabelled(0, 7) == []
