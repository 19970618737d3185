"""The whole network: embeddings, loss, sampling, fresh weights."""

import math
from dataclasses import replace

import pytest
import torch

from pizero import flow
from pizero.model.config import GemmaConfig, Pi0Config
from pizero.model.norm import CLOSED_GATE, AdaLayerNorm
from pizero.model.pi0 import Pi0, precision
from pizero.types import Actions


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


PI05 = {"state_token": False, "time_conditioning": "adarms"}
VARIANTS = {
    "pi0": {},
    "pi05": PI05,
    "restart": {"positions": "restart", "attention_softcap": 2.0, "euler_grid": "open-pi-zero"},
    "adaln": {"time_conditioning": "adaln", "time_dim": 10, "positions": "restart", "attention_softcap": 2.0},
    "adaln-zero": {"time_conditioning": "adaln-zero", "time_dim": 10},
}
ADAPTIVE_STATE = ("adaln", "adaln-zero")


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request, tiny_config, randomise) -> Pi0:
    model = Pi0(replace(tiny_config, **VARIANTS[request.param]))
    randomise(model)
    return model.requires_grad_(False)


@pytest.fixture
def noise(tiny_config) -> torch.Tensor:
    return normal(3, tiny_config.horizon, tiny_config.action_dim, seed=3)


@pytest.fixture
def actions(tiny_config) -> Actions:
    """The last dimension is padding everywhere, the last step in row 1."""
    values = normal(3, tiny_config.horizon, tiny_config.action_dim, seed=4)
    mask = torch.ones_like(values, dtype=torch.bool)
    mask[:, :, -1] = False
    mask[1, -1] = False
    return Actions(values * mask.any(1, keepdim=True), mask)


def test_image_tokens_are_one_view_after_the_other_and_not_scaled(tiny_model, ragged):
    tokens = tiny_model.embed_images(ragged.images)
    patches = tiny_model.config.vision.num_patches
    for view in range(3):
        expected = tiny_model.projector(tiny_model.vision(ragged.images[:, view]))
        torch.testing.assert_close(tokens[:, view * patches : (view + 1) * patches], expected, atol=1e-6, rtol=1e-5)


def test_prompt_tokens_are_scaled_by_the_root_of_the_width(tiny_model, ragged):
    expected = tiny_model.embed_tokens.weight[ragged.prompt] * math.sqrt(tiny_model.config.vlm.width)
    torch.testing.assert_close(tiny_model.embed_prompt(ragged.prompt), expected)


def test_prefix_is_images_then_prompt_and_counts_only_real_tokens(tiny_model, ragged):
    tokens, positions, mask = tiny_model.embed_prefix(ragged)
    images, prompt = tiny_model.embed_images(ragged.images), tiny_model.embed_prompt(ragged.prompt)
    assert torch.equal(tokens, torch.cat([images, prompt], dim=1))
    patches = tiny_model.config.vision.num_patches
    for row in range(3):
        real = [bool(ragged.image_mask[row, i // patches]) for i in range(3 * patches)]
        real += ragged.prompt_mask[row].tolist()
        assert mask[row].tolist() == real
        assert positions[row][mask[row]].tolist() == list(range(sum(real)))


@pytest.mark.parametrize("keep", [(), ("image_mask",), ("prompt_mask",)])
def test_a_mask_of_none_is_a_mask_of_ones(tiny_model, ragged, noise, keep):
    given = {name: getattr(ragged, name) for name in keep}
    ones = {"image_mask": torch.ones(3, 3, dtype=torch.bool), "prompt_mask": torch.ones(3, 5, dtype=torch.bool)}
    without = replace(ragged, **{"image_mask": None, "prompt_mask": None, **given})
    explicit = replace(ragged, **{**ones, **given})
    t = torch.full((3,), 0.4)
    v_t = tiny_model.velocity(tiny_model.prefill(without), noise, t)
    torch.testing.assert_close(v_t, tiny_model.velocity(tiny_model.prefill(explicit), noise, t), atol=1e-5, rtol=1e-5)


def test_velocity_depends_on_everything_that_is_real(tiny_model, ragged, noise):
    t = torch.full((3,), 0.4)
    base = tiny_model.velocity(tiny_model.prefill(ragged), noise, t)

    def moved(observation=ragged, x_t=noise, t=t) -> torch.Tensor:
        return (tiny_model.velocity(tiny_model.prefill(observation), x_t, t) - base).abs().amax((1, 2))

    other_prompt = ragged.prompt.clone()
    other_prompt[:, 0] = (other_prompt[:, 0] + 1) % tiny_model.config.vocab_size
    assert (moved(t=t + 0.1) > 1e-3).all()
    assert (moved(x_t=noise + 0.1) > 1e-3).all()
    assert (moved(replace(ragged, state=ragged.state + 0.1)) > 1e-3).all()
    assert (moved(replace(ragged, prompt=other_prompt)) > 1e-3).all()
    assert (moved(replace(ragged, images=-ragged.images)) > 1e-3).all()


def test_every_action_token_sees_every_other(tiny_model, ragged, noise):
    cache, t = tiny_model.prefill(ragged), torch.full((3,), 0.4)
    base = tiny_model.velocity(cache, noise, t)
    for step in range(tiny_model.config.horizon):
        changed = noise.clone()
        changed[:, step] += 0.5
        moved = (tiny_model.velocity(cache, changed, t) - base).abs().amax(2)
        assert (moved > 1e-4).all()


def test_loss_is_the_masked_mean_of_the_squared_error_written_out(tiny_model, ragged, actions, noise):
    t = torch.tensor([0.1, 0.5, 0.9])
    cache, sigma = tiny_model.prefill(ragged), 0.001
    noise[:, :, -1] = 0  # a padded dimension is zero in x_t
    x_t = torch.stack([(1 - (1 - sigma) * t[i]) * noise[i] + t[i] * actions.values[i] for i in range(3)])
    v_t = tiny_model.velocity(cache, x_t, t)
    total, count = 0.0, 0
    for row, step, dim in actions.mask.nonzero().tolist():
        u_t = float(actions.values[row, step, dim] - (1 - sigma) * noise[row, step, dim])
        total, count = total + (float(v_t[row, step, dim]) - u_t) ** 2, count + 1
    assert float(tiny_model.loss(ragged, actions, t, noise)) == pytest.approx(total / count, rel=1e-5)


def test_padded_dimensions_do_not_touch_the_loss(tiny_model, ragged, actions, noise):
    t = torch.tensor([0.1, 0.5, 0.9])
    other = noise.clone()
    other[:, :, -1] += 5
    assert torch.equal(tiny_model.loss(ragged, actions, t, noise), tiny_model.loss(ragged, actions, t, other))


def test_targets_of_padded_steps_do_not_count(tiny_model, ragged, actions, noise):
    """At t = 0 the actions are not in x_t, only in the target."""
    other = actions.values.clone()
    other[1, -1, :-1] += 5
    t = torch.zeros(3)
    changed = tiny_model.loss(ragged, Actions(other, actions.mask), t, noise)
    assert torch.equal(tiny_model.loss(ragged, actions, t, noise), changed)


def test_several_draws_on_one_observation_give_the_mean_of_separate_losses(variant, ragged, actions, noise):
    full = Actions(actions.values, torch.ones_like(actions.mask))
    t = torch.tensor([0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
    noises = normal(6, *noise.shape[1:], seed=5)
    joint = variant.loss(ragged, full, t, noises)
    separate = [variant.loss(ragged, full, t[i::2], noises[i::2]) for i in range(2)]
    torch.testing.assert_close(joint, sum(separate) / 2, atol=0, rtol=1e-5)


def test_the_state_depends_on_the_time_in_the_loss_and_is_of_t_0_when_sampling(variant, ragged, actions, noise):
    """Only where the state is a token and its norms are adaptive."""
    adaptive = variant.config.time_conditioning in ADAPTIVE_STATE
    prefix = variant.prefill_prefix(ragged)
    early, late = (variant.append_state(prefix, ragged.state, torch.full((3,), t)) for t in (0.0, 0.6))
    sampling = variant.prefill(ragged)
    for i in range(variant.config.action.depth):
        assert torch.equal(sampling.keys[i], early.keys[i])
        assert torch.equal(sampling.values[i], early.values[i])
        assert torch.equal(late.keys[i][:, :, : len(prefix)], prefix.keys[i])
        assert torch.equal(early.keys[i], late.keys[i]) != adaptive
    t = torch.full((3,), 0.6)
    x_t = flow.interpolate(noise * actions.mask.any(1, keepdim=True), actions.values, t)
    u_t = flow.target_velocity(noise * actions.mask.any(1, keepdim=True), actions.values)
    loss, at_t, at_0 = (
        variant.loss(ragged, actions, t, noise),
        *(flow.loss(variant.velocity(cache, x_t, t), u_t, actions.mask) for cache in (late, early)),
    )
    torch.testing.assert_close(loss, at_t, atol=0, rtol=1e-5)
    assert (abs(float(loss - at_0)) > 1e-4 * float(loss)) == adaptive


def test_without_a_state_token_the_state_is_nowhere(tiny_config, randomise, ragged, noise):
    model = Pi0(replace(tiny_config, **PI05)).requires_grad_(False)
    randomise(model)
    assert not [name for name, _ in model.named_parameters() if "state" in name]
    cache = model.prefill(ragged)
    assert len(cache) == len(model.prefill_prefix(ragged)) == 3 * model.config.vision.num_patches + 5
    changed = model.prefill(replace(ragged, state=ragged.state + 1))
    t = torch.full((3,), 0.4)
    assert torch.equal(model.velocity(cache, noise, t), model.velocity(changed, noise, t))


@pytest.mark.parametrize("positions", ["counted", "restart"])
@pytest.mark.parametrize("state_token", [False, True])
def test_positions_are_counted_from_0_or_from_1_and_again_after_the_prefix(
    tiny_config, ragged, noise, positions, state_token, monkeypatch
):
    model = Pi0(replace(tiny_config, positions=positions, state_token=state_token)).requires_grad_(False)
    seen = []
    for expert in (model.vlm, model.action):
        for method in ("cache", "forward"):
            original = getattr(expert, method)

            def record(x, positions, *args, original=original, **kwargs):
                seen.append(positions.tolist())
                return original(x, positions, *args, **kwargs)

            monkeypatch.setattr(expert, method, record)
    model.velocity(model.prefill(ragged), noise, torch.zeros(3))
    prefix, *suffix = seen
    first = 1 if positions == "restart" else 0
    patches = model.config.vision.num_patches
    for row in range(3):
        real = [bool(ragged.image_mask[row, i // patches]) for i in range(3 * patches)]
        real += ragged.prompt_mask[row].tolist()
        own = [p for p, is_real in zip(prefix[row], real, strict=True) if is_real]
        assert own == list(range(first, first + sum(real)))
        after = [p for block in suffix for p in block[row]]
        start = 1 if positions == "restart" else sum(real)
        assert after == list(range(start, start + state_token + model.config.horizon))


def test_sampling_follows_the_grid_of_the_config_in_the_type_of_the_model(tiny_config, ragged, noise, monkeypatch):
    for grid in ("even", "openpi", "lerobot", "open-pi-zero"):
        for dtype in (torch.float32, torch.bfloat16):
            model = Pi0(replace(tiny_config, euler_grid=grid)).requires_grad_(False)
            for name, parameter in model.named_parameters():
                parameter.data = parameter.data.to(precision(name, dtype))
            seen = []
            monkeypatch.setattr(model, "velocity", lambda cache, x, t, seen=seen: seen.append(t) or torch.zeros_like(x))
            model.sample(ragged.to("cpu", dtype), 10, noise=noise)
            assert [t[0].item() for t in seen] == flow.euler_times(10, grid, dtype)


def test_heads_stay_float32_in_a_network_of_bfloat16_and_the_velocity_is_no_coarser(variant, ragged, noise):
    rounded = Pi0(variant.config).requires_grad_(False)
    rounded.load_state_dict(variant.state_dict())
    for name, parameter in rounded.named_parameters():
        parameter.data = parameter.data.to(precision(name, torch.bfloat16))
        assert parameter.dtype == (torch.float32 if name.startswith("heads.") else torch.bfloat16)
    assert precision("vlm.norm.weight", torch.float32) == precision("heads.state_proj.bias", torch.float32)
    t = torch.tensor([0.1, 0.5, 0.9])
    v_t = rounded.velocity(rounded.prefill(ragged.to("cpu", torch.bfloat16)), noise, t)
    assert v_t.dtype == torch.float32
    assert not torch.equal(v_t, v_t.bfloat16().float())
    expected = variant.velocity(variant.prefill(ragged), noise, t)
    assert (v_t - expected).abs().mean() < 0.05 * expected.abs().mean()


@pytest.mark.parametrize("draws", [0, 2, 4])
def test_draws_that_are_no_multiple_of_the_batch_are_refused(tiny_model, ragged, actions, draws):
    with pytest.raises(ValueError, match=f"{draws} draws of t for 3 observations"):
        tiny_model.loss(ragged, actions, torch.rand(draws), torch.randn(draws, *actions.values.shape[1:]))


def test_sampling_is_euler_from_noise_at_t_0_up(tiny_model, ragged, noise):
    x = noise.clone()
    for step in range(4):
        v_t = tiny_model.velocity(tiny_model.prefill(ragged), x, torch.full((3,), step / 4))
        x = x + v_t / 4
    torch.testing.assert_close(tiny_model.sample(ragged, num_steps=4, noise=noise), x, atol=1e-5, rtol=1e-5)


def test_same_generator_same_actions_and_other_generator_other_actions(tiny_model, ragged):
    first, again, other = (
        tiny_model.sample(ragged, 2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_masked_action_dimensions_stay_zero_and_are_never_seen(tiny_model, ragged, noise):
    mask = torch.tensor([True, True, True, False, True])
    actions = tiny_model.sample(ragged, 4, noise=noise, action_mask=mask)
    assert torch.equal(actions[:, :, 3], torch.zeros(3, tiny_model.config.horizon))
    noise[:, :, 3] += 5
    assert torch.equal(actions, tiny_model.sample(ragged, 4, noise=noise, action_mask=mask))


def test_a_row_does_not_depend_on_the_others_in_the_batch(tiny_model, ragged, noise):
    whole = tiny_model.sample(ragged, 3, noise=noise)
    for row in range(3):
        alone = replace(
            ragged,
            images=ragged.images[row : row + 1],
            prompt=ragged.prompt[row : row + 1],
            state=ragged.state[row : row + 1],
            image_mask=ragged.image_mask[row : row + 1],
            prompt_mask=ragged.prompt_mask[row : row + 1],
        ).trim()
        actions = tiny_model.sample(alone, 3, noise=noise[row : row + 1])
        torch.testing.assert_close(actions, whole[row : row + 1], atol=1e-4, rtol=1e-4)


def test_bfloat16_is_near_float32(tiny_model, ragged, noise):
    rounded = Pi0(tiny_model.config).requires_grad_(False)
    rounded.load_state_dict(tiny_model.state_dict())
    rounded.to(torch.bfloat16)
    actions = rounded.sample(ragged.to("cpu", torch.bfloat16), 4, noise=noise)
    assert actions.dtype == torch.float32
    expected = tiny_model.sample(ragged, 4, noise=noise)
    assert (actions - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_the_loss_reaches_every_weight_but_those_that_only_the_text_would_need(
    tiny_config, randomise, variant, ragged, actions, noise
):
    """Weights are drawn: fresh ones have gates and a read-out that let nothing through."""
    model = Pi0(variant.config)
    randomise(model)
    model.loss(ragged, actions, torch.tensor([0.1, 0.5, 0.9]), noise).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    last = f"vlm.layers.{tiny_config.vlm.depth - 1}."
    assert without == {
        "vlm.norm.weight",
        last + "self_attn.q_proj.weight",
        last + "self_attn.o_proj.weight",
        last + "post_attention_layernorm.weight",
        last + "mlp.gate_proj.weight",
        last + "mlp.up_proj.weight",
        last + "mlp.down_proj.weight",
    }


def test_fresh_weights_of_every_variant_predict_zero_velocity_and_do_not_see_the_time(
    variant, randomise, ragged, noise
):
    model = Pi0(variant.config)
    randomise(model, std=3.0)
    model.init_weights(torch.Generator().manual_seed(0))
    assert not model.velocity(model.prefill(ragged), noise, torch.zeros(3)).any()
    biases = {name for name, p in model.named_parameters() if name.endswith("bias") and p.any()}
    gates = {name for name in dict(model.named_parameters()) if name.endswith("to_gate.bias")}
    assert biases == gates
    for norm in model.modules():
        if isinstance(norm, AdaLayerNorm):
            assert not any(p.any() for p in (norm.to_gamma.weight, norm.to_beta.weight, norm.to_gamma.bias))
            if norm.to_gate is not None:
                assert not norm.to_gate.weight.any()
                assert (norm.to_gate.bias == CLOSED_GATE).all()


def test_fresh_weights_have_unit_gain_and_predict_zero_velocity(tiny_config, ragged, noise, randomise):
    model = Pi0(replace(tiny_config, vlm=replace(tiny_config.vlm, mlp_dim=2000)))
    randomise(model, std=3.0)  # whatever was there before
    assert model.init_weights(torch.Generator().manual_seed(0)) is model
    weight = model.vlm.layers[0].mlp.down_proj.weight.detach()
    assert float(weight.std()) == pytest.approx(2000**-0.5, rel=0.02)
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))
    for norm, width in ((lambda x: model.vlm.norm(x)[0], 32), (model.vision.post_layernorm, 20)):
        torch.testing.assert_close(norm(normal(4, width)).square().mean(-1), torch.ones(4), atol=1e-4, rtol=0)
    assert not model.velocity(model.prefill(ragged), noise, torch.zeros(3)).any()


def test_fresh_weights_depend_on_the_generator_alone(tiny_config):
    first, again, other = (Pi0(tiny_config).init_weights(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.projector.weight, other.projector.weight)


def test_fresh_weights_learn_one_batch(tiny_config, ragged, actions, noise):
    model = Pi0(tiny_config).init_weights(torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    t = torch.tensor([0.1, 0.5, 0.9])
    losses = []
    for _ in range(60):
        loss = model.loss(ragged, actions, t, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_sigma_min_is_that_of_the_flow_unless_given(tiny_model, ragged, actions, noise):
    t = torch.tensor([0.1, 0.5, 0.9])
    default = tiny_model.loss(ragged, actions, t, noise)
    assert torch.equal(default, tiny_model.loss(ragged, actions, t, noise, sigma_min=flow.SIGMA_MIN))
    assert not torch.equal(default, tiny_model.loss(ragged, actions, t, noise, sigma_min=0.0))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"depth": 17}, "depth is 18 in the vlm and 17"),
        ({"num_kv_heads": 2}, "num_kv_heads is 1 in the vlm and 2"),
        ({"head_dim": 128}, "head_dim is 256 in the vlm and 128"),
        ({"width": 1023}, "1023"),
    ],
)
def test_experts_that_cannot_share_attention_are_refused(change, named):
    with pytest.raises(ValueError, match=named):
        Pi0Config(action=replace(GemmaConfig(width=1024, mlp_dim=4096), **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_dim": 15, "time_conditioning": "adaln"}, "the time embedding is 15 wide, must be even: see time_dim"),
        ({"time_dim": 0, "time_conditioning": "adaln"}, "the time embedding is 0 wide"),
        ({"time_dim": 10}, "time_dim is 10; with time_conditioning 'input' it is the width of the action expert, 1024"),
        ({"time_dim": 10, "time_conditioning": "adarms"}, "time_dim is 10; with time_conditioning 'adarms'"),
        ({"time_min_period": 4.0}, "time_min_period 4.0 and time_max_period 4.0 must be above 0 and rise"),
        ({"time_min_period": 0.0}, "time_min_period 0.0"),
        ({"attention_softcap": 0.0}, "attention_softcap is 0.0, must be above 0 or None"),
        ({"attention_softcap": -50.0}, "attention_softcap is -50.0"),
        ({"attention_softcap": math.nan}, "attention_softcap is nan"),
        ({"horizon": 0}, "horizon is 0, must be at least 1"),
    ],
)
def test_switches_that_cannot_be_are_refused_with_what_came(change, message):
    with pytest.raises(ValueError, match=message):
        Pi0Config(**change)


def test_the_time_may_have_a_width_of_its_own_only_where_norms_take_it():
    assert Pi0Config().time_width == 1024
    assert Pi0Config(time_conditioning="adaln", time_dim=256).time_width == 256
    assert Pi0Config(time_conditioning="adarms", time_dim=1024).time_width == 1024


def test_the_released_model_has_3_3_billion_parameters():
    with torch.device("meta"):
        model = Pi0(Pi0Config())
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(3.24e9, rel=0.01)
