"""The data side of openpi and open-pi-zero: every array of the golden cases, and the calls of their tokenizers."""

import importlib.util
import io
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import sentencepiece

from pizero.data.prompt import Tokenizer, train_tokenizer

GOLDEN = Path(__file__).parent / "golden"
TOOL = Path(__file__).parents[2] / "tools" / "verify_data.py"
NORMALIZE, PROMPTS, RESIZE = (GOLDEN / f"data_{case}" for case in ("normalize", "prompts", "resize"))


def arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "expected.npz") as file:
        return dict(file)


NORMALIZED, RESIZED = arrays(NORMALIZE), arrays(RESIZE)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify_data", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def normalized(tool: ModuleType) -> dict[str, np.ndarray]:
    return tool.normalize_case(NORMALIZE)


@pytest.fixture(scope="module")
def resized(tool: ModuleType) -> dict[str, np.ndarray]:
    return tool.resize_case(RESIZE)


@pytest.mark.parametrize("name", NORMALIZED)
def test_normalising_relative_actions_and_statistics_are_openpis(normalized: dict[str, np.ndarray], name: str) -> None:
    assert set(normalized) == set(NORMALIZED)
    assert normalized[name].dtype == NORMALIZED[name].dtype
    np.testing.assert_allclose(normalized[name], NORMALIZED[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", RESIZED)
def test_resizing_is_bit_for_bit_that_of_openpis_client_and_of_open_pi_zero(
    resized: dict[str, np.ndarray], name: str
) -> None:
    assert set(resized) == set(RESIZED)
    assert resized[name].dtype == RESIZED[name].dtype
    rounding = 1 if name.startswith("jax") else 0  # XLA's sums are in another order
    np.testing.assert_allclose(resized[name].astype(float), RESIZED[name].astype(float), rtol=0, atol=rounding)
    assert (resized[name] != RESIZED[name]).mean() < 1e-3


def test_every_prompt_is_written_as_the_references_write_it(tool: ModuleType) -> None:
    assert tool.prompts_case(PROMPTS) == []


def test_a_prompt_that_differs_is_found(tool: ModuleType, tmp_path: Path) -> None:
    cases = json.loads((PROMPTS / "prompts.json").read_text())
    cases["openpi"][0]["encode_calls"][0][0] += " "
    cases["openpi_padding_with_byte_tokenizer"][0]["tokens"][3] += 1
    cases["open_pi_zero"][0]["image_tokens"] += 1
    (tmp_path / "prompts.json").write_text(json.dumps(cases))
    assert len(tool.prompts_case(tmp_path)) == 3


def test_prompts_are_encoded_by_the_calls_that_openpi_makes() -> None:
    cases = json.loads((PROMPTS / "prompts.json").read_text())["openpi"]
    model = train_tokenizer([case["prompt"] for case in cases], 400)
    sentencepiece_model = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokenizer = Tokenizer(model)
    for case in cases:
        calls = [sentencepiece_model.Encode(text, add_bos=add_bos) for text, add_bos in case["encode_calls"]]
        state = None if case["state"] is None else np.array(case["state"], case["state_dtype"])
        ids = tokenizer.encode(case["prompt"], "pi0" if state is None else "pi05", state)
        assert ids == [token for call in calls for token in call], case["prompt"]


def test_the_newline_is_encoded_apart_from_the_text() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["drawer"]),
        model_writer=model,
        model_type="bpe",
        vocab_size=270,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        user_defined_symbols=["r\n"],
        bos_id=2,
        eos_id=1,
        unk_id=3,
        pad_id=0,
        minloglevel=2,
    )
    together = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = Tokenizer(model.getvalue()).encode("drawer")
    assert ids == together.Encode("drawer", add_bos=True) + together.Encode("\n")
    assert ids != together.Encode("drawer\n", add_bos=True)
    for prompt_format in ("lerobot-pi0", "open-pi-zero"):
        assert Tokenizer(model.getvalue()).encode("drawer", prompt_format) == together.Encode("drawer\n", add_bos=True)
