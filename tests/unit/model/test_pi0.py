"""The whole network: embeddings, loss, sampling, fresh weights."""

import math
from dataclasses import replace

import pytest
import torch

from pizero import flow
from pizero.model.config import GemmaConfig, Pi0Config
from pizero.model.pi0 import Pi0
from pizero.types import Actions


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


def test_several_draws_on_one_observation_give_the_mean_of_separate_losses(tiny_model, ragged, actions, noise):
    full = Actions(actions.values, torch.ones_like(actions.mask))
    t = torch.tensor([0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
    noises = normal(6, *noise.shape[1:], seed=5)
    joint = tiny_model.loss(ragged, full, t, noises)
    separate = [tiny_model.loss(ragged, full, t[i::2], noises[i::2]) for i in range(2)]
    torch.testing.assert_close(joint, sum(separate) / 2, atol=0, rtol=1e-5)


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


def test_the_loss_reaches_every_weight_but_those_that_only_the_text_would_need(tiny_config, ragged, actions, noise):
    model = Pi0(tiny_config).init_weights(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.heads.action_out_proj.weight)  # zero at first, which would stop the gradient there
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


def test_the_released_model_has_3_3_billion_parameters():
    with torch.device("meta"):
        model = Pi0(Pi0Config())
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(3.24e9, rel=0.01)
