"""The parts of a Gemma stack against their formulas, and the cache that joins two stacks."""

import math

import pytest
import torch

from pizero.model.config import GemmaConfig
from pizero.model.gemma import Cache, FeedForward, Gemma, attend, rotary_table, rotate
from pizero.model.norm import norm_maker

CONFIG = GemmaConfig(width=32, depth=2, mlp_dim=40, num_heads=4, num_kv_heads=2, head_dim=12)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def stack(randomise) -> Gemma:
    stack = Gemma(CONFIG)
    randomise(stack)
    return stack.requires_grad_(False)


def test_rotary_embedding_turns_pairs_of_the_two_halves_as_complex_numbers():
    x = normal(2, 3, 5, 12)
    positions = torch.tensor([[0, 1, 2, 3, 4], [3, 0, 7, 100, 5]])
    frequency = 10_000.0 ** (-torch.arange(6, dtype=torch.float64) / 6)
    turn = torch.exp(1j * positions[:, None, :, None] * frequency)
    turned = torch.complex(x[..., :6].double(), x[..., 6:].double()) * turn
    expected = torch.cat([turned.real, turned.imag], dim=-1)
    actual = rotate(x, rotary_table(positions, 12, 10_000.0))
    torch.testing.assert_close(actual.double(), expected, atol=1e-5, rtol=1e-5)


def test_rotary_base_comes_from_the_config(randomise):
    x, positions = normal(1, 4, 32), torch.arange(4)[None]
    outputs = []
    for base in (10_000.0, 100.0):
        stack = Gemma(GemmaConfig(width=32, depth=1, mlp_dim=40, num_heads=2, head_dim=12, rope_base=base))
        randomise(stack)
        outputs.append(stack(x, positions))
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_the_sum_written_out_head_by_head(masked, softcap):
    """Logits have a standard deviation of 1 here, so that a cap of 0.7 changes them all."""
    q, k, v = normal(2, 4, 3, 12), normal(2, 2, 5, 12, seed=1), normal(2, 2, 5, 12, seed=2)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 1, 1]], dtype=torch.bool) if masked else None
    expected = torch.empty(2, 3, 4 * 12)
    for b in range(2):
        keys = range(5) if mask is None else [j for j in range(5) if mask[b, j]]
        for head in range(4):
            for i in range(3):
                logits = [float(q[b, head, i] @ k[b, head // 2, j]) / math.sqrt(12) for j in keys]
                if softcap is not None:
                    logits = [softcap * math.tanh(x / softcap) for x in logits]
                weights = torch.tensor([math.exp(x) for x in logits])
                values = torch.stack([v[b, head // 2, j] for j in keys])
                expected[b, i, 12 * head : 12 * head + 12] = weights / weights.sum() @ values
    torch.testing.assert_close(attend(q, k, v, mask, softcap), expected, atol=1e-5, rtol=1e-5)


def test_capped_attention_in_bfloat16_has_its_softmax_in_float32():
    """100 equal keys: in bfloat16 each weight would be rounded, and their sum be off by up to 100 roundings."""
    q, k, v = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 100, 4), torch.ones(1, 1, 100, 4)
    out = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), None, 50.0)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), torch.ones(1, 1, 4), atol=4e-3, rtol=0)


def test_a_soft_cap_is_in_every_layer_and_in_the_cache(randomise):
    """Two layers: the first shows in the second's keys, the last only in the tokens."""
    x, positions = normal(2, 4, 32), torch.arange(4).expand(2, 4)
    plain, capped = Gemma(CONFIG), Gemma(CONFIG, softcap=0.5)
    for stack in (plain, capped):
        randomise(stack)
    caches = [stack.cache(x, positions) for stack in (plain, capped)]
    assert torch.equal(caches[0].keys[0], caches[1].keys[0])
    assert (caches[0].keys[1] - caches[1].keys[1]).abs().max() > 1e-3
    only_last = Gemma(CONFIG)
    only_last.load_state_dict(plain.state_dict())
    only_last.layers[1].softcap = 0.5
    assert (only_last(x, positions) - plain(x, positions)).abs().max() > 1e-3
    assert (only_last(x, positions) - capped(x, positions)).abs().max() > 1e-3


@pytest.mark.parametrize("closed", ["input_layernorm", "post_attention_layernorm"])
def test_each_sublayer_has_a_gate_of_its_own(closed, randomise):
    """With the gates of one kind closed, the sublayers behind them could be anything."""
    x, positions, condition = normal(2, 4, 32), torch.arange(4).expand(2, 4), normal(2, 6, seed=1)
    behind = {"input_layernorm": "self_attn", "post_attention_layernorm": "mlp"}[closed]
    opened, shut = [], []
    for seed in (1, 2):
        stack = Gemma(CONFIG, norm_maker(32, "adarms", 6)).requires_grad_(False)
        randomise(stack)
        for layer in stack.layers:
            randomise(layer.get_submodule(behind), seed=seed)
        opened.append(stack(x, positions, condition=condition))
        for layer in stack.layers:
            dense = layer.get_submodule(closed).dense
            dense.weight[64:], dense.bias[64:] = 0, 0  # the last third are the gates
        shut.append(stack(x, positions, condition=condition))
    torch.testing.assert_close(*shut, atol=1e-6, rtol=1e-6)
    assert (opened[0] - opened[1]).abs().max() > 1e-3


def test_feed_forward_is_gated_by_the_tanh_form_of_gelu(randomise):
    network = FeedForward(CONFIG)
    randomise(network)
    x = normal(2, 5, 32)
    gate, up, down = (p.weight.double() for p in (network.gate_proj, network.up_proj, network.down_proj))
    y = x.double() @ gate.T
    gelu = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
    torch.testing.assert_close(network(x).double(), (gelu * (x.double() @ up.T)) @ down.T, atol=1e-5, rtol=1e-5)


def test_the_cache_of_a_block_holds_what_one_pass_over_both_blocks_computes(stack):
    """First block: tokens 0-3, which see each other; second: 4-5, which see all. One row has padding in the first."""
    x = normal(2, 6, 32)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0]], dtype=torch.bool)
    first_positions = (mask.cumsum(1) - 1).clamp(min=0)
    first = stack.cache(x[:, :4], first_positions, mask)
    both = stack.cache(x[:, 4:], first.next_positions(2), past=first)
    assert len(first) == 4
    assert len(both) == 6
    for i in range(CONFIG.depth):  # the first block's part is untouched and comes first
        assert torch.equal(both.keys[i][:, :, :4], first.keys[i])
        assert torch.equal(both.values[i][:, :, :4], first.values[i])
    # left out altogether, padding gives the same second block
    short = stack.cache(x[1:, [0, 2]], torch.tensor([[0, 1]]))
    short_both = stack.cache(x[1:, 4:], short.next_positions(2), past=short)
    for i in range(CONFIG.depth):
        torch.testing.assert_close(both.keys[i][1:, :, 4:], short_both.keys[i][:, :, 2:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(both.values[i][1:, :, 4:], short_both.values[i][:, :, 2:], atol=1e-5, rtol=1e-5)


def test_own_padding_and_cached_padding_are_both_left_out(stack):
    x = normal(1, 5, 32)
    past_mask, own_mask = torch.tensor([[True, False]]), torch.tensor([[True, False, True]])
    past = stack.cache(x[:, :2], torch.tensor([[0, 0]]), past_mask)
    padded = stack(x[:, 2:], torch.tensor([[1, 1, 2]]), own_mask, past)
    past = stack.cache(x[:, :1], torch.tensor([[0]]))
    plain = stack(x[:, [2, 4]], torch.tensor([[1, 2]]), past=past)
    torch.testing.assert_close(padded[:, [0, 2]], plain, atol=1e-5, rtol=1e-5)


def test_later_blocks_need_of_the_last_layer_only_keys_and_values(stack, randomise):
    other = Gemma(CONFIG)
    other.load_state_dict(stack.state_dict())
    for unused in (other.layers[-1].self_attn.o_proj, other.layers[-1].mlp, other.norm):
        randomise(unused, seed=9)
    x, positions = normal(1, 4, 32), torch.arange(4)[None]
    first, second = stack.cache(x, positions), other.cache(x, positions)
    assert all(torch.equal(a, b) for a, b in zip(first.keys + first.values, second.keys + second.values, strict=True))
    assert not torch.equal(stack(x, positions), other(x, positions))


@pytest.mark.parametrize("masked", [False, True])
def test_a_repeated_cache_has_each_row_several_times_in_a_row(masked):
    mask = torch.tensor([[True, True], [True, False]]) if masked else None
    cache = Cache([normal(2, 2, 2, 12)], [normal(2, 2, 2, 12, seed=1)], mask)
    repeated = cache.repeat(3)
    rows = [0, 0, 0, 1, 1, 1]
    assert torch.equal(repeated.keys[0], cache.keys[0][rows])
    assert torch.equal(repeated.values[0], cache.values[0][rows])
    assert repeated.mask is None if mask is None else torch.equal(repeated.mask, mask[rows])


def test_positions_after_a_cache_do_not_count_padding():
    keys = [normal(2, 2, 4, 12)]
    assert Cache(keys, keys, None).next_positions(2).tolist() == [[4, 5], [4, 5]]
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0]], dtype=torch.bool)
    assert Cache(keys, keys, mask).next_positions(2).tolist() == [[4, 5], [2, 3]]


@pytest.mark.parametrize("wrong", [{"num_heads": 8, "num_kv_heads": 3}, {"head_dim": 15}])
def test_impossible_heads_are_refused_with_the_numbers(wrong):
    with pytest.raises(ValueError, match=str(list(wrong.values())[-1])):
        GemmaConfig(**wrong)
