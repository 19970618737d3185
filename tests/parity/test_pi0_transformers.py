"""transformers' own pi0 on tiny random weights: the same velocity, loss and actions.

Its time runs the other way (t = 1 is noise), so its read-out changes sign and the columns of the action-time MLP that
take the time embedding are rotated.
"""

import math

import pytest
import torch

from pizero.model.config import GemmaConfig, Pi0Config, SiglipConfig
from pizero.model.pi0 import Pi0
from pizero.types import Actions, Observation

transformers = pytest.importorskip("transformers", minversion="5.17")

IMAGE_TOKEN = 50
PATCHES = 4
GEMMA = {"depth": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 10}
CONFIG = Pi0Config(
    vision=SiglipConfig(width=24, depth=2, mlp_dim=40, num_heads=3, image_size=28, patch_size=14),
    vlm=GemmaConfig(width=32, mlp_dim=48, **GEMMA),
    action=GemmaConfig(width=20, mlp_dim=28, **GEMMA),
    vocab_size=60,
    state_dim=7,
    action_dim=6,
    horizon=4,
    time_min_period=0.1,  # at the released 0.004 the float32 angles of both sides are good to 1e-4 only
)
RENAMES = (
    ("model.vlm.vision_tower.embeddings.", "vision."),
    ("model.vlm.vision_tower.encoder.", "vision."),
    ("model.vlm.vision_tower.", "vision."),
    ("model.vlm.multi_modal_projector.linear.", "projector."),
    ("model.vlm.language_model.embed_tokens.", "embed_tokens."),
    ("model.vlm.language_model.", "vlm."),
    ("model.dit.", "action."),
    ("embed_action_time.", "heads."),
    ("action_out_proj.", "heads.action_out_proj."),
)


def gemma_dict(config: GemmaConfig) -> dict[str, object]:
    return {
        "model_type": "gemma",
        "hidden_size": config.width,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": CONFIG.vocab_size,
    }


@pytest.fixture(scope="module")
def theirs(randomise) -> torch.nn.Module:
    vision = CONFIG.vision
    config = transformers.PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": vision.width,
                "intermediate_size": vision.mlp_dim,
                "num_hidden_layers": vision.depth,
                "num_attention_heads": vision.num_heads,
                "image_size": vision.image_size,
                "patch_size": vision.patch_size,
                "vision_use_head": False,
            },
            "text_config": gemma_dict(CONFIG.vlm),
            "projection_dim": CONFIG.vlm.width,
            "image_token_index": IMAGE_TOKEN,
        },
        dit_config=gemma_dict(CONFIG.action),
        chunk_size=CONFIG.horizon,
        max_state_dim=CONFIG.state_dim,
        max_action_dim=CONFIG.action_dim,
        min_period=CONFIG.time_min_period,
    )
    model = transformers.PI0ForConditionalGeneration(config).eval().requires_grad_(False)
    randomise(model, seed=1)
    return model


@pytest.fixture(scope="module")
def ours(theirs) -> Pi0:
    state = {}
    for key, value in theirs.state_dict().items():
        if key == "model.dit.embed_tokens.weight":  # the expert takes no tokens
            continue
        start, ours = next((a, b) for a, b in RENAMES if key.startswith(a))
        name = ours + key.removeprefix(start)
        state[name.replace("self_attn.", "").replace("mlp.", "") if ours == "vision." else name] = value.clone()
    state["heads.action_out_proj.weight"] *= -1
    state["heads.action_out_proj.bias"] *= -1

    width = CONFIG.action.width
    fraction = torch.linspace(0, 1, width // 2, dtype=torch.float64)
    angle = 2 * math.pi / (CONFIG.time_min_period * (CONFIG.time_max_period / CONFIG.time_min_period) ** fraction)
    weight = state["heads.action_time_mlp_in.weight"]
    sines, cosines = weight[:, width:].double().chunk(2, dim=1)
    weight[:, width:] = torch.cat(
        [cosines * angle.sin() - sines * angle.cos(), sines * angle.sin() + cosines * angle.cos()], dim=1
    )
    model = Pi0(CONFIG)
    model.load_state_dict(state)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def observation() -> Observation:
    """Three cameras, of which the middle one is absent in row 1; prompts of 5, 3 and 1 tokens."""
    generator = torch.Generator().manual_seed(2)
    return Observation(
        images=torch.rand(3, 3, 3, 28, 28, generator=generator) * 2 - 1,
        prompt=torch.randint(0, IMAGE_TOKEN, (3, 5), generator=generator),
        state=torch.randn(3, CONFIG.state_dim, generator=generator),
        image_mask=torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=torch.bool),
        prompt_mask=torch.arange(5) < torch.tensor([[5], [3], [1]]),
    )


@pytest.fixture(scope="module")
def their_inputs(observation) -> dict[str, torch.Tensor]:
    """The same as their processor gives it: an absent camera has no image tokens, padding is on the right."""
    length = 3 * PATCHES + 5
    ids, mask = torch.zeros(3, length, dtype=torch.long), torch.zeros(3, length, dtype=torch.long)
    for row in range(3):
        prompt = observation.prompt[row][observation.prompt_mask[row]]
        images = torch.full((int(observation.image_mask[row].sum()) * PATCHES,), IMAGE_TOKEN)
        tokens = torch.cat([images, prompt])
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": observation.images,
        "pixel_attention_mask": observation.image_mask,
        "state": observation.state,
    }


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return torch.randn(3, CONFIG.horizon, CONFIG.action_dim, generator=torch.Generator().manual_seed(4))


def assert_near(a: torch.Tensor, b: torch.Tensor, relative: float) -> None:
    assert torch.isfinite(b).all()
    assert (a - b).abs().max() <= relative * b.abs().max()


def test_velocity_is_minus_theirs_at_the_turned_time(ours, theirs, observation, their_inputs, noise):
    t = torch.tensor([0.25, 0.5, 0.875])  # 1 - t is exact
    theirs_v = theirs(noise=noise, timestep=1 - t, **their_inputs).logits
    assert_near(ours.velocity(ours.prefill(observation), noise, t), -theirs_v, 1e-5)


def test_loss_is_theirs_without_sigma(ours, theirs, observation, their_inputs, noise):
    t = torch.tensor([0.25, 0.5, 0.875])
    values = torch.randn(noise.shape, generator=torch.Generator().manual_seed(6))
    expected = theirs(noise=noise, timestep=1 - t, actions=values, **their_inputs).loss
    actions = Actions(values, torch.ones_like(values, dtype=torch.bool))
    assert_near(ours.loss(observation, actions, t, noise, sigma_min=0.0), expected, 1e-5)


def test_sampled_actions_are_theirs(ours, theirs, observation, their_inputs, noise):
    expected = theirs.sample_actions(noise=noise.clone(), num_steps=8, **their_inputs)  # k / 8 is exact both ways
    assert_near(ours.sample(observation, num_steps=8, noise=noise), expected, 1e-5)
