"""openpi's PyTorch pi0 on tiny random weights: the same velocity, loss and actions.

openpi's time runs the other way. Turned round, its read-out changes sign, and the columns of the action-time MLP that
take the time embedding are rotated, since sin and cos of w (1 - t) are linear in sin and cos of w t.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pizero.model.config import GemmaConfig, Pi0Config, SiglipConfig
from pizero.model.pi0 import Pi0
from pizero.types import Actions, Observation

CASE = Path(__file__).parent / "golden" / "openpi_pi0_base"
VLM = "paligemma_with_expert.paligemma.model."
EXPERT = "paligemma_with_expert.gemma_expert.model."
GEMMA = {"depth": 3, "num_heads": 8, "num_kv_heads": 1, "head_dim": 16}
CONFIG = Pi0Config(
    vision=SiglipConfig(width=32, depth=2, mlp_dim=72, num_heads=4, image_size=56, patch_size=14),
    vlm=GemmaConfig(width=96, mlp_dim=160, **GEMMA),
    action=GemmaConfig(width=64, mlp_dim=96, **GEMMA),
    vocab_size=304,
    horizon=6,
)


def our_key(key: str) -> str | None:
    """The parameter that a key of openpi stands for; None for the unused head of the expert."""
    if key == "paligemma_with_expert.gemma_expert.lm_head.weight":
        return None
    if key == "paligemma_with_expert.paligemma.lm_head.weight":
        return "embed_tokens.weight"
    for theirs, ours in (
        (VLM + "vision_tower.vision_model.embeddings.", "vision."),
        (VLM + "vision_tower.vision_model.encoder.", "vision."),
        (VLM + "vision_tower.vision_model.", "vision."),
        (VLM + "multi_modal_projector.linear.", "projector."),
        (VLM + "language_model.", "vlm."),
        (EXPERT, "action."),
    ):
        if key.startswith(theirs):
            key = key.replace(theirs, ours)
            return key.replace("self_attn.", "").replace("mlp.", "") if ours == "vision." else key
    return "heads." + key


def turn_time(weight: torch.Tensor) -> torch.Tensor:
    """Weights for the embedding of t from weights for the embedding of 1 - t."""
    width = weight.shape[1] // 2
    actions, sines, cosines = weight.double().split([width, width // 2, width // 2], dim=1)
    c = CONFIG
    period = c.time_min_period * (c.time_max_period / c.time_min_period) ** torch.linspace(
        0, 1, width // 2, dtype=torch.float64
    )
    sin, cos = torch.sin(2 * math.pi / period), torch.cos(2 * math.pi / period)
    return torch.cat([actions, cosines * sin - sines * cos, sines * sin + cosines * cos], dim=1).float()


@pytest.fixture(scope="module")
def model() -> Pi0:
    state = {our: value for key, value in load_file(CASE / "model.safetensors").items() if (our := our_key(key))}
    state["heads.action_out_proj.weight"] *= -1
    state["heads.action_out_proj.bias"] *= -1
    state["heads.action_time_mlp_in.weight"] = turn_time(state["heads.action_time_mlp_in.weight"])
    model = Pi0(CONFIG)
    model.load_state_dict(state)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(CASE / "inputs.npz").items()}


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(CASE / "expected_float32.npz").items()}


@pytest.fixture(scope="module")
def observation(inputs: dict[str, torch.Tensor]) -> Observation:
    return Observation(
        images=inputs["images_uint8"].permute(1, 0, 4, 2, 3) / 255 * 2 - 1,
        prompt=inputs["tokenized_prompt"].long(),
        state=inputs["state"],
        image_mask=inputs["image_masks"].T,
        prompt_mask=inputs["tokenized_prompt_mask"],
    )


def test_prefix_embeddings_equal_those_of_openpi(model, observation, expected):
    tokens, _, mask = model.embed_prefix(observation)
    torch.testing.assert_close(tokens[mask], expected["prefix_embeddings"][mask], atol=2e-5, rtol=1e-4)


def test_velocity_equals_minus_that_of_openpi_at_the_turned_time(model, observation, inputs, expected):
    """The time is turned round in float64: a float32 1 - t alone moves the fastest sine, 2 pi t / 0.004, by 1e-4."""
    v_t = model.velocity(model.prefill(observation), expected["x_t"], 1 - inputs["time"].double())
    torch.testing.assert_close(v_t, -expected["v"], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(v_t, -expected["v_cached"], atol=2e-5, rtol=1e-4)


def test_velocity_equals_that_of_openpi_at_each_of_its_euler_steps(model, observation, expected):
    cache = model.prefill(observation)
    for t, x_t, v_t in zip(*(expected[f"steps_{name}_N10"] for name in "txv"), strict=True):
        ours = model.velocity(cache, x_t, (1 - t.double()).expand(3))
        torch.testing.assert_close(ours, -v_t, atol=2e-5, rtol=1e-4)


def test_loss_equals_the_mean_of_openpi(model, observation, inputs, expected):
    actions = Actions(inputs["actions"], torch.ones_like(inputs["actions"], dtype=torch.bool))
    loss = model.loss(observation, actions, 1 - inputs["time"], inputs["noise"], sigma_min=0.0)
    torch.testing.assert_close(loss, expected["loss"].mean(), atol=0, rtol=1e-4)


@pytest.mark.parametrize("num_steps", [5, 10])
def test_sampled_actions_equal_those_of_openpi(model, observation, inputs, expected, num_steps):
    """openpi adds up t in float32, which alone moves its actions by up to 1e-4."""
    actions = model.sample(observation, num_steps, noise=inputs["start_noise"])
    torch.testing.assert_close(actions, expected[f"actions_N{num_steps}"], atol=3e-4, rtol=1e-4)
