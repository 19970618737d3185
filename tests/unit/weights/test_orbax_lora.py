"""Adapters merged into a weight give what the unmerged network computes, for every kind of weight."""

import numpy as np
import pytest
import torch

from pizero.weights.facts import Facts
from pizero.weights.orbax_lora import adapter_keys, adapter_shapes, asks_alpha, attention_scale, merge_adapter

B, T, N, K, D, H, F, R = 2, 3, 4, 2, 12, 6, 10, 3
ALPHA_OVER_RANK = 1.5
# by kind: the weight's shape, x's axes, the products x w, x a, and that times b (openpi, models/gemma.py and lora.py)
KINDS = {
    "queries": ((N, D, H), "BTD", "BTD,NDH->BTNH", "BTD,NDL->BTNL", "BTNL,NLH->BTNH", ALPHA_OVER_RANK),
    "keys and values": (
        (2, K, D, H),
        "BTD",
        "BTD,2KDH->2BTKH",
        "BTD,2KDL->2BTKL",
        "2BTKL,2KLH->2BTKH",
        ALPHA_OVER_RANK,
    ),
    "read-out": ((N, H, D), "BTNH", "BTNH,NHD->BTD", "BTNH,NHL->BTL", "BTL,NLD->BTD", ALPHA_OVER_RANK),
    "gate and up": ((2, D, F), "BTD", "BTD,2DF->2BTF", "BTD,2DL->2BTL", "2BTL,2LF->2BTF", 1.0),
    "down": ((F, D), "BTF", "BTF,FD->BTD", "BTF,FL->BTL", "BTL,LD->BTD", 1.0),
}
SIZES = {"B": B, "T": T, "N": N, "K": K, "D": D, "H": H, "F": F, "2": 2}


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def einsum(equation: str, *arrays: np.ndarray) -> np.ndarray:
    return np.einsum(equation.replace("2", "Z"), *arrays)


def outputs(kind: str, merged: torch.Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
    """What the unmerged network computes of a random x, and what the merged weight (ours by default) does."""
    shape, axes, plain, first, second, scale = KINDS[kind]
    a_shape, b_shape = adapter_shapes(shape, R)
    x, w, a, b = drawn(*(SIZES[axis] for axis in axes)), drawn(*shape), drawn(*a_shape), drawn(*b_shape)
    unmerged = einsum(plain, x, w) + einsum(second, einsum(first, x, a), b) * scale
    if merged is None:
        merged = merge_adapter(*map(torch.from_numpy, (w, a, b)), scale, over_heads=kind == "read-out")
    return unmerged, einsum(plain, x, merged.double().numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_weight_gives_what_the_unmerged_network_computes(kind):
    unmerged, merged = outputs(kind)
    np.testing.assert_allclose(merged, unmerged, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_would_be_noticed_if_adapters_were_dropped_scaled_wrongly_or_multiplied_head_by_head(kind):
    shape, *_, scale = KINDS[kind]
    a_shape, b_shape = adapter_shapes(shape, R)
    parts = [torch.from_numpy(drawn(*s)) for s in (shape, a_shape, b_shape)]
    over_heads = kind == "read-out"
    wrong = [parts[0], merge_adapter(*parts, 2.5 - scale, over_heads=over_heads)]
    if over_heads:
        wrong.append(merge_adapter(*parts, scale, over_heads=False))
    for weight in wrong:
        unmerged, merged = outputs(kind, weight)
        assert np.abs(merged - unmerged).max() > 1


def test_bfloat16_is_merged_in_float64():
    w, a, b = (torch.randn(s, generator=torch.Generator().manual_seed(0)).bfloat16() for s in ((5, 7), (5, 2), (2, 7)))
    merged = merge_adapter(w, a, b, 1.0, over_heads=False)
    assert merged.dtype == torch.float32
    assert torch.equal(merged, (w.double() + a.double() @ b.double()).float())


def test_names_of_adapters():
    assert adapter_keys("llm/attn/q_einsum_1/w") == ("llm/attn/q_einsum_1/lora_a", "llm/attn/q_einsum_1/lora_b")
    assert adapter_keys("llm/mlp/linear") == ("llm/mlp/linear_lora_a", "llm/mlp/linear_lora_b")


def test_alpha_is_known_for_the_variants_of_openpi_alone():
    assert not asks_alpha({})
    assert not asks_alpha({"vlm": 16, "action": 32})
    assert attention_scale("action", {"vlm": 16, "action": 32}, Facts()) == 1.0
    assert asks_alpha({"vlm": 32})
    assert asks_alpha({"vlm": 16, "action": 4})


def test_scale_is_alpha_over_rank_or_over_its_root():
    assert attention_scale("vlm", {"vlm": 4}, Facts(lora_alpha=6.0)) == 1.5
    assert attention_scale("vlm", {"vlm": 4}, Facts(lora_alpha=6.0, lora_rslora=True)) == 3.0
    assert attention_scale("vlm", {"vlm": 16}, Facts(lora_alpha=8.0)) == 0.5


def test_one_alpha_is_not_taken_for_two_experts_that_cannot_share_it():
    with pytest.raises(ValueError, match=r"--lora-alpha is 8\.0, but the adapters of the vlm expert have rank 16"):
        attention_scale("vlm", {"vlm": 16, "action": 4}, Facts(lora_alpha=8.0))
    assert attention_scale("vlm", {"vlm": 16, "action": 4}, Facts(lora_alpha=16.0)) == 1.0
