"""openpi's resizing bit for bit, its normalisation to rounding, its calls of the tokenizer."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from pizero.data.images import resize_with_pad
from pizero.data.normalize import Normalizer
from pizero.data.prompt import Tokenizer, train_tokenizer
from pizero.data.stats import Stats

CASE = Path(__file__).parent / "golden" / "openpi_data"


@pytest.mark.parametrize("number", [6, 8, 9, 10, 11, 12])
def test_resizing_is_openpis_bit_for_bit(number: int) -> None:
    with np.load(CASE / "resize.npz") as case:
        image, expected = case[f"img{number}"], case[f"pad{number}"]
    np.testing.assert_array_equal(resize_with_pad(image, expected.shape[:2]), expected)


@pytest.mark.parametrize(("mode", "prefix"), [("z-score", "z"), ("quantile", "q")])
def test_normalising_is_openpis_both_ways(mode: str, prefix: str) -> None:
    norm_stats = json.loads((CASE / "norm_stats.json").read_text())["norm_stats"]
    with np.load(CASE / "normalize.npz") as case:
        for key in ("state", "actions"):
            s = {name: np.array(values) for name, values in norm_stats[key].items()}
            stats = Stats(s["mean"], s["std"], s["q01"], s["q99"], s["q01"], s["q99"], count=1)
            normalizer = Normalizer(mode, stats, [f"d{i}" for i in range(len(stats.mean))])
            np.testing.assert_allclose(normalizer.normalize(case[key]), case[f"{prefix}_{key}"], rtol=1e-12, atol=1e-12)
        inverted = normalizer.invert(case["model_actions"][..., :7])
        # openpi adds and halves in the float32 of the model's output, we in float64
        np.testing.assert_allclose(inverted, case[f"{prefix}_un_actions"][..., :7], rtol=0, atol=5e-7)


def test_statistics_are_those_of_the_reference_with_exact_quantiles() -> None:
    with np.load(CASE / "normalize.npz") as case:
        stats = Stats.of(case["stream"].reshape(-1, 3))
        np.testing.assert_allclose(stats.mean, case["stream_mean"], rtol=1e-12)
        np.testing.assert_allclose(stats.std, case["stream_std"], rtol=1e-12)
        np.testing.assert_array_equal(stats.q01, case["stream_exact_01"])
        np.testing.assert_array_equal(stats.q99, case["stream_exact_99"])


def test_prompts_are_encoded_by_the_calls_that_openpi_makes() -> None:
    cases = json.loads((CASE / "prompts.json").read_text())
    model = train_tokenizer([case["prompt"] for case in cases], 400)
    sentencepiece_model = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokenizer = Tokenizer(model)
    for case in cases:
        calls = [sentencepiece_model.Encode(text, add_bos=add_bos) for text, add_bos in case["encode_calls"]]
        assert tokenizer.encode(case["prompt"]) == [token for call in calls for token in call], case["prompt"]


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
