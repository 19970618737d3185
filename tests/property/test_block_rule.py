"""The three blocks, the cache and padding, against one attention over all tokens with one big mask.

`brute_force` shares nothing with the package but its weights: one sequence per row, the rule spelt out pair by pair,
positions counted token by token, rotary embedding as complex numbers, all in float64.
"""

import math
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from pizero.model.config import GemmaConfig, Pi0Config, SiglipConfig
from pizero.model.gemma import Gemma
from pizero.model.pi0 import Pi0
from pizero.types import Observation

GEMMA = {"depth": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
CONFIG = Pi0Config(
    vision=SiglipConfig(width=16, depth=1, mlp_dim=20, num_heads=2, image_size=12, patch_size=6),
    vlm=GemmaConfig(width=32, mlp_dim=40, **GEMMA),
    action=GemmaConfig(width=24, mlp_dim=28, **GEMMA),
    vocab_size=17,
    state_dim=6,
    action_dim=5,
    horizon=3,
)
PATCHES = CONFIG.vision.num_patches
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def model(randomise) -> Pi0:
    model = Pi0(CONFIG)
    randomise(model)
    return model.requires_grad_(False)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + weight.double())


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def turn(x: Tensor, positions: list[int]) -> Tensor:
    """x (tokens, heads, head_dim) with each pair (i, i + half) turned by position * 10000^(-2i / head_dim)."""
    half = x.shape[-1] // 2
    frequency = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.tensor(positions, dtype=torch.float64)[:, None, None] * frequency
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.exp(1j * angle)
    return torch.cat([turned.real, turned.imag], dim=-1)


def brute_force(model: Pi0, observation: Observation, x_t: Tensor, t: Tensor, row: int) -> Tensor:
    """The velocity of one row: all tokens, padding included, in one pass."""
    images = model.embed_images(observation.images[row : row + 1])[0].double()
    prompt = model.embed_tokens.weight[observation.prompt[row]].double() * math.sqrt(CONFIG.vlm.width)
    state = model.heads.embed_state(observation.state[row : row + 1])[0].double()
    actions = model.heads.embed_actions(x_t[row : row + 1], t[row : row + 1])[0].double()

    blocks = [0] * (len(images) + len(prompt)) + [1] + [2] * len(actions)
    real = []
    for view in range(observation.images.shape[1]):
        real += [observation.image_mask is None or bool(observation.image_mask[row, view])] * PATCHES
    for token in range(len(prompt)):
        real.append(observation.prompt_mask is None or bool(observation.prompt_mask[row, token]))
    real += [True] * (1 + len(actions))
    positions, count = [], 0
    for is_real in real:
        positions.append(count)
        count += is_real
    allowed = torch.tensor([[blocks[j] <= blocks[i] and real[j] for j in range(len(real))] for i in range(len(real))])

    streams = [torch.cat([images, prompt]), torch.cat([state, actions])]
    experts: list[Gemma] = [model.vlm, model.action]
    split = [len(streams[0]), len(streams[1])]
    for i in range(CONFIG.vlm.depth):
        layers = [expert.layers[i] for expert in experts]
        normed = [rms_norm(x, layer.input_layernorm.weight) for x, layer in zip(streams, layers, strict=True)]
        q, k, v = (
            torch.cat(
                [x @ getattr(layer.self_attn, name).weight.double().T for x, layer in zip(normed, layers, strict=True)]
            ).unflatten(-1, (-1, CONFIG.vlm.head_dim))
            for name in ("q_proj", "k_proj", "v_proj")
        )
        q, k = turn(q, positions), turn(k, positions)
        group = CONFIG.vlm.num_heads // CONFIG.vlm.num_kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        logits = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(CONFIG.vlm.head_dim)
        weights = logits.masked_fill(~allowed, -1e30).softmax(-1)
        attended = torch.einsum("hij,jhd->ihd", weights, v).flatten(1).split(split)
        for s, (x, layer) in enumerate(zip(streams, layers, strict=True)):
            x = x + attended[s] @ layer.self_attn.o_proj.weight.double().T
            y = rms_norm(x, layer.post_attention_layernorm.weight)
            gate, up, down = (p.weight.double() for p in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj))
            streams[s] = x + (gelu(y @ gate.T) * (y @ up.T)) @ down.T
    out = rms_norm(streams[1][1:], model.action.norm.weight)
    return out @ model.heads.action_out_proj.weight.double().T + model.heads.action_out_proj.bias.double()


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    """1 to 3 rows, 1 to 3 views of which any but one may be absent, prompts of 1 to 6 tokens; always some padding."""
    rows, views, length = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(2, 6))
    image_mask = torch.tensor(
        draw(st.lists(st.lists(st.booleans(), min_size=views, max_size=views), min_size=rows, max_size=rows))
    )
    lengths = draw(st.lists(st.integers(1, length), min_size=rows, max_size=rows))
    lengths[draw(st.integers(0, rows - 1))] = draw(st.integers(1, length - 1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    side = CONFIG.vision.image_size
    return Observation(
        images=torch.rand(rows, views, 3, side, side, generator=generator) * 2 - 1,
        prompt=torch.randint(0, CONFIG.vocab_size, (rows, length), generator=generator),
        state=torch.randn(rows, CONFIG.state_dim, generator=generator),
        image_mask=draw(st.sampled_from([image_mask, None])),
        prompt_mask=torch.arange(length) < torch.tensor(lengths)[:, None],
    )


def chunk(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_t = torch.randn(rows, CONFIG.horizon, CONFIG.action_dim, generator=generator)
    return x_t, torch.rand(rows, generator=generator)


def velocity(model: Pi0, observation: Observation, x_t: Tensor, t: Tensor) -> Tensor:
    return model.velocity(model.prefill(observation), x_t, t)


def assert_near(ours: Tensor, theirs: Tensor, relative: float = 1e-5) -> None:
    assert torch.isfinite(theirs).all()
    assert (ours - theirs).abs().max() <= relative * theirs.abs().max()


@few
@given(observation=observations())
def test_cached_blocks_equal_one_pass_with_one_big_mask(model, observation):
    x_t, t = chunk(len(observation.state))
    v_t = velocity(model, observation, x_t, t)
    for row in range(len(v_t)):
        assert_near(v_t[row].double(), brute_force(model, observation, x_t, t, row))


@few
@given(observation=observations(), seed=st.integers(0, 1000))
def test_what_stands_in_the_padding_changes_nothing(model, observation, seed):
    x_t, t = chunk(len(observation.state))
    generator = torch.Generator().manual_seed(seed)
    other = torch.randint(0, CONFIG.vocab_size, observation.prompt.shape, generator=generator)
    prompt = torch.where(observation.prompt_mask, observation.prompt, other)
    images = observation.images
    if observation.image_mask is not None:
        absent = ~observation.image_mask[:, :, None, None, None]
        images = torch.where(absent, torch.rand(images.shape, generator=generator), images)
    changed = replace(observation, images=images, prompt=prompt)
    assert_near(velocity(model, changed, x_t, t), velocity(model, observation, x_t, t), 1e-6)


@few
@given(observation=observations())
def test_trimming_changes_nothing(model, observation):
    x_t, t = chunk(len(observation.state))
    expected = velocity(model, observation, x_t, t)
    assert_near(velocity(model, observation.trim(), x_t, t), expected)
    assert_near(model.sample(observation.trim(), 3, noise=x_t), model.sample(observation, 3, noise=x_t))


@few
@given(observation=observations(), extra=st.integers(1, 4))
def test_more_padding_changes_nothing(model, observation, extra):
    """A longer prompt buffer, and an absent camera put in the middle."""
    x_t, t = chunk(len(observation.state))
    rows, views = observation.images.shape[:2]
    prompt_mask = torch.cat([observation.prompt_mask, torch.zeros(rows, extra, dtype=torch.bool)], dim=1)
    prompt = torch.cat([observation.prompt, torch.zeros(rows, extra, dtype=torch.long)], dim=1)
    image_mask = torch.ones(rows, views, dtype=torch.bool) if observation.image_mask is None else observation.image_mask
    absent = -torch.ones_like(observation.images[:, :1])
    padded = Observation(
        images=torch.cat([observation.images[:, :1], absent, observation.images[:, 1:]], dim=1),
        prompt=prompt,
        state=observation.state,
        image_mask=torch.cat([image_mask[:, :1], torch.zeros(rows, 1, dtype=torch.bool), image_mask[:, 1:]], dim=1),
        prompt_mask=prompt_mask,
    )
    assert_near(velocity(model, padded, x_t, t), velocity(model, observation, x_t, t))


@few
@given(observation=observations(), draws=st.integers(1, 3))
def test_draws_on_a_repeated_cache_equal_separate_calls(model, observation, draws):
    rows = len(observation.state)
    x_t, t = chunk(rows * draws)
    joint = model.velocity(model.prefill(observation).repeat(draws), x_t, t)
    for i in range(draws):
        assert_near(joint[i::draws], velocity(model, observation, x_t[i::draws], t[i::draws]))


@few
@given(observation=observations())
def test_the_cache_knows_nothing_of_the_actions(model, observation):
    """Two chunks on one cache, in either order, give what each gives on a cache of its own."""
    cache = model.prefill(observation)
    (first, t), (second, u) = chunk(len(observation.state)), chunk(len(observation.state), seed=1)
    expected = velocity(model, observation, first, t)
    assert torch.equal(model.velocity(cache, first, t), expected)
    model.velocity(cache, second, u)
    assert torch.equal(model.velocity(cache, first, t), expected)
