"""The three blocks, the cache and padding, against one attention over all tokens with one big mask.

`brute_force` shares nothing with the package but its weights: one sequence per row, the rule spelt out pair by pair,
positions counted token by token, rotary embedding as complex numbers, all in float64. It knows pi0, pi0.5 and the
variants of open-pi-zero.
"""

import math
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

from pizero.model.config import GemmaConfig, Pi0Config, SiglipConfig
from pizero.model.gemma import Gemma
from pizero.model.pi0 import Pi0
from pizero.types import Actions, Observation

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
RESTART = replace(
    CONFIG,
    action=replace(CONFIG.action, rope_base=100.0),
    positions="restart",
    attention_softcap=2.0,
    time_min_period=2 * math.pi,
    time_max_period=200 * math.pi,
)
VARIANTS = {
    "pi0": CONFIG,
    "pi05": replace(CONFIG, state_token=False, time_conditioning="adarms"),
    "restart": RESTART,
    "adaln": replace(RESTART, time_conditioning="adaln", time_dim=10),
    "adaln-zero": replace(RESTART, time_conditioning="adaln-zero", time_dim=10, positions="counted"),
}
PATCHES = CONFIG.vision.num_patches
few = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: pytest.FixtureRequest, randomise) -> Pi0:
    model = Pi0(VARIANTS[request.param])
    randomise(model)
    return model.requires_grad_(False)


def normed(x: Tensor, norm: nn.Module, condition: Tensor | None) -> tuple[Tensor, Tensor | float]:
    """Tokens (q, d) and the gate of what follows; `condition` (q, c) is each token's own."""
    w = {name: weight.double() for name, weight in norm.state_dict().items()}
    unit = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    if "weight" in w:
        return unit * (1 + w["weight"]), 1.0
    assert condition is not None
    if "dense.weight" in w:
        made = torch.einsum("oc,qc->qo", w["dense.weight"], condition) + w["dense.bias"]
        d = x.shape[-1]
        return unit * (1 + made[:, :d]) + made[:, d : 2 * d], made[:, 2 * d :]
    gamma = 1 / (1 + torch.exp(-condition @ w["to_gamma.weight"].T - w["to_gamma.bias"]))
    gate: Tensor | float = 1.0
    if "to_gate.weight" in w:
        gate = 1 / (1 + torch.exp(-condition @ w["to_gate.weight"].T - w["to_gate.bias"]))
    return unit * gamma + condition @ w["to_beta.weight"].T, gate


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def swish(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def turn(x: Tensor, positions: list[int], base: float) -> Tensor:
    """x (tokens, heads, head_dim) with each pair (i, i + half) turned by position * base^(-2i / head_dim)."""
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.tensor(positions, dtype=torch.float64)[:, None, None] * frequency
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.exp(1j * angle)
    return torch.cat([turned.real, turned.imag], dim=-1)


def condition_of(model: Pi0, t: float) -> Tensor | None:
    """What the norms of the action expert depend on at one time, (c,)."""
    c = model.config
    if c.time_conditioning == "input":
        return None
    half = c.time_width // 2
    ratio = c.time_max_period / c.time_min_period
    angles = [2 * math.pi * t / (c.time_min_period * ratio ** (i / (half - 1))) for i in range(half)]
    time = torch.tensor([math.sin(x) for x in angles] + [math.cos(x) for x in angles], dtype=torch.float64)
    if c.time_conditioning == "adarms":
        w = {name: weight.double() for name, weight in model.heads.state_dict().items()}
        time = swish(w["time_mlp_in.weight"] @ time + w["time_mlp_in.bias"])
        time = swish(w["time_mlp_out.weight"] @ time + w["time_mlp_out.bias"])
    return time


def positions_of(real: list[bool], prefix: int, restarts: bool, first: int | None) -> list[int]:
    """Padding takes none. Counted from 0, or from `first` and again from there after the prefix."""
    start = int(restarts) if first is None else first
    positions, count = [], start
    for i, is_real in enumerate(real):
        count = start if restarts and i == prefix else count
        positions.append(count)
        count += is_real
    return positions


def brute_force(
    model: Pi0,
    observation: Observation,
    x_t: Tensor,
    t: Tensor,
    row: int,
    state_t: float = 0.0,
    first: int | None = None,
) -> Tensor:
    """The velocity of one row: all tokens, padding included, in one pass. `state_t`: the time of the state's norms."""
    c = model.config
    images = model.embed_images(observation.images[row : row + 1])[0].double()
    prompt = model.embed_tokens.weight[observation.prompt[row]].double() * math.sqrt(c.vlm.width)
    actions = model.heads.embed_actions(x_t[row : row + 1], t[row : row + 1])[0].double()
    state = model.heads.embed_state(observation.state[row : row + 1])[0].double() if c.state_token else actions[:0]

    prefix = len(images) + len(prompt)
    blocks = [0] * prefix + [1] * len(state) + [2] * len(actions)
    real = []
    for view in range(observation.images.shape[1]):
        real += [observation.image_mask is None or bool(observation.image_mask[row, view])] * PATCHES
    for token in range(len(prompt)):
        real.append(observation.prompt_mask is None or bool(observation.prompt_mask[row, token]))
    real += [True] * (len(state) + len(actions))
    positions = positions_of(real, prefix, c.positions == "restart", first)
    allowed = torch.tensor([[blocks[j] <= blocks[i] and real[j] for j in range(len(real))] for i in range(len(real))])

    streams = [torch.cat([images, prompt]), torch.cat([state, actions])]
    experts: list[Gemma] = [model.vlm, model.action]
    split = [len(streams[0]), len(streams[1])]
    early, now = condition_of(model, state_t), condition_of(model, float(t[row]))
    own = None if early is None or now is None else torch.stack([early] * len(state) + [now] * len(actions))
    conditions = [None, own]
    for i in range(c.vlm.depth):
        layers = [expert.layers[i] for expert in experts]
        inputs = [
            normed(x, layer.input_layernorm, condition)
            for x, layer, condition in zip(streams, layers, conditions, strict=True)
        ]
        q, k, v = (
            [
                (x @ getattr(layer.self_attn, name).weight.double().T).unflatten(-1, (-1, c.vlm.head_dim))
                for (x, _), layer in zip(inputs, layers, strict=True)
            ]
            for name in ("q_proj", "k_proj", "v_proj")
        )
        bases = (c.vlm.rope_base, c.action.rope_base)
        places = (positions[:prefix], positions[prefix:])
        q, k = (torch.cat([turn(x, *how) for x, *how in zip(z, places, bases, strict=True)]) for z in (q, k))
        group = c.vlm.num_heads // c.vlm.num_kv_heads
        k, v = k.repeat_interleave(group, 1), torch.cat(v).repeat_interleave(group, 1)
        logits = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(c.vlm.head_dim)
        if c.attention_softcap is not None:
            logits = c.attention_softcap * torch.tanh(logits / c.attention_softcap)
        weights = logits.masked_fill(~allowed, -1e30).softmax(-1)
        attended = torch.einsum("hij,jhd->ihd", weights, v).flatten(1).split(split)
        for s, (x, layer) in enumerate(zip(streams, layers, strict=True)):
            x = x + inputs[s][1] * (attended[s] @ layer.self_attn.o_proj.weight.double().T)
            y, gate = normed(x, layer.post_attention_layernorm, conditions[s])
            mlp = layer.mlp
            hidden, up, down = (p.weight.double() for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
            streams[s] = x + gate * ((gelu(y @ hidden.T) * (y @ up.T)) @ down.T)
    out, _ = normed(streams[1], model.action.norm, conditions[1])
    out = out[len(state) :]
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
@given(observation=observations(), draws=st.integers(1, 2))
def test_in_the_loss_the_state_is_of_the_time_of_its_draw(model, observation, draws):
    """As open-pi-zero trains; the squares are summed here from the brute force of each draw."""
    rows = len(observation.state)
    generator = torch.Generator().manual_seed(2)
    noise, t = chunk(rows * draws)
    values = torch.randn(rows, CONFIG.horizon, CONFIG.action_dim, generator=generator)
    loss = model.loss(observation, Actions(values, torch.ones_like(values, dtype=torch.bool)), t, noise, sigma_min=0.1)
    total = 0.0
    for row in range(rows):
        for draw in range(draws):
            i = row * draws + draw
            x_t = (1 - 0.9 * t[i]) * noise[i] + t[i] * values[row]
            one = torch.zeros(rows, *x_t.shape)
            one[row] = x_t
            v_t = brute_force(model, observation, one, t[i].expand(rows), row, state_t=float(t[i]))
            total += float((v_t - (values[row] - 0.9 * noise[i])).square().sum())
    assert float(loss) == pytest.approx(total / noise.numel(), rel=1e-5)


@few
@given(observation=observations())
def test_where_positions_begin_matters_only_when_the_experts_turn_at_other_rates(model, observation):
    """Rotary embedding sees differences of positions, unless the two of a pair are turned by different bases."""
    x_t, t = chunk(len(observation.state))
    v_t = velocity(model, observation, x_t, t)
    for row in range(len(v_t)):
        other = brute_force(model, observation, x_t, t, row, first=7)
        if model.config.vlm.rope_base == model.config.action.rope_base:
            assert_near(v_t[row].double(), other)
        else:
            assert (v_t[row] - other).abs().max() > 1e-4 * other.abs().max()


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
