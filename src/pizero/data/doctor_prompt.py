"""Prompts: empty, nearly equal, too long."""

import re
from collections.abc import Sequence

import numpy as np

from pizero.data.choice import PromptFormat
from pizero.data.doctor_finding import Finding, listed, percent
from pizero.data.prompt import Tokenizer, clean

LETTERS_PER_TOKEN = 4
"""Of English text with PaliGemma's tokenizer, about; used where no tokenizer is given."""
MANY = 1000
"""Different prompts from which it is worth knowing."""


def check_texts(prompts: Sequence[str], counts: Sequence[int]) -> list[Finding]:
    """Empty prompts, and those that differ only in capitals, punctuation or white space; `counts`: frames of each."""
    findings = []
    total = sum(counts)
    empty = sum(count for prompt, count in zip(prompts, counts, strict=True) if not clean(prompt))
    if empty:
        text = f"the prompt of {percent(empty / total)} of the frames is empty"
        findings.append(Finding("warning", "prompt", text, "write what the robot does; a policy is told so in words"))
    groups: dict[str, list[str]] = {}
    for prompt in prompts:
        groups.setdefault(" ".join(re.findall(r"\w+", clean(prompt).casefold())), []).append(prompt)
    twins = [group for plain, group in groups.items() if plain and len(group) > 1]
    if twins:
        examples = [" = ".join(map(repr, group[:2])) for group in twins]
        text = f"{len(twins)} prompts are written in several ways: {listed(examples, 2)}"
        findings.append(Finding("note", "prompt", text, "write each in one way: the model reads capitals and stops"))
    if len(prompts) > MANY:
        text = f"{len(prompts)} different prompts, in {total} frames"
        findings.append(Finding("note", "prompt", text, "fine if they are meant; else a number or a name is in them"))
    return findings


def check_unlabelled(num_left_out: int, num_read: int) -> list[Finding]:
    """Episodes that were left out since they have no instruction."""
    if not num_left_out:
        return []
    text = f"{num_left_out} of {num_left_out + num_read} episodes have no instruction and are left out"
    return [Finding("note", "prompt", text, "give them one, if there are many")]


def check_tokens(
    prompts: Sequence[str], length: int, prompt_format: PromptFormat, state_width: int, tokenizer: Tokenizer | None
) -> list[Finding]:
    """Prompts of more than `length` tokens: exact with a tokenizer, else from the number of letters."""
    if tokenizer is None:
        return _estimated(prompts, length)
    state = np.ones(state_width)  # bin 255: no state is longer in words
    tokens = {prompt: tokenizer.encode(prompt, prompt_format, state) for prompt in prompts}
    long = [prompt for prompt in prompts if len(tokens[prompt]) > length]
    if not long:
        return []
    worst = max(long, key=lambda prompt: len(tokens[prompt]))
    end = tokenizer.decode(tokens[worst][:length])[-30:]
    text = (
        f"{len(long)} of {len(prompts)} prompts have more than {length} tokens, up to {len(tokens[worst])}; cut there, "
        f"{worst!r} would end at {end!r}"
    )
    return [_too_long(text, len(tokens[worst]))]


def _estimated(prompts: Sequence[str], length: int) -> list[Finding]:
    tokens = [2 + len(clean(prompt)) // LETTERS_PER_TOKEN for prompt in prompts]
    num_long = sum(count > length for count in tokens)
    if not num_long:
        return []
    text = f"{num_long} of {len(prompts)} prompts may have more than {length} tokens: about {max(tokens)}, by letters"
    finding = _too_long(text, max(tokens))
    return [Finding("warning", finding.topic, text, finding.advice)]


def _too_long(text: str, tokens: int) -> Finding:
    return Finding("error", "prompt", text, f"--data.prompt-length {tokens}, or shorten them: nothing is cut here")
