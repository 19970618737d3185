"""The compiled sampler on a CUDA device: the same numbers as the plain one, and it says so when it cannot compile."""

import logging
from dataclasses import replace

import pytest
import torch

from pizero.model.config import GemmaConfig, Pi0Config, SiglipConfig
from pizero.model.pi0 import Pi0
from pizero.runtime.graph import GraphSampler
from pizero.runtime.sampler import PlainSampler, make_sampler
from pizero.types import Observation

pytestmark = pytest.mark.gpu

CONFIG = Pi0Config(
    vision=SiglipConfig(width=128, depth=3, mlp_dim=256, num_heads=4, image_size=56, patch_size=14),
    vlm=GemmaConfig(width=256, depth=3, mlp_dim=512, num_heads=8, num_kv_heads=1, head_dim=64),
    action=GemmaConfig(width=128, depth=3, mlp_dim=256, num_heads=8, num_kv_heads=1, head_dim=64),
    vocab_size=300,
    state_dim=8,
    action_dim=7,
    horizon=6,
)
VARIANTS = {
    "pi0": CONFIG,
    "pi0.5": replace(CONFIG, time_conditioning="adarms", state_token=False, euler_grid="openpi"),
    "open-pi-zero": replace(CONFIG, positions="restart", attention_softcap=50.0, euler_grid="open-pi-zero"),
    "adaLN-Zero": replace(CONFIG, time_conditioning="adaln-zero", time_dim=64, attention_softcap=50.0),
}


def make_model(dtype: torch.dtype, config: Pi0Config = CONFIG) -> Pi0:
    generator = torch.Generator().manual_seed(0)
    model = Pi0(config).init_weights(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 or not parameter.any():  # fresh adaptive norms see no time
                parameter.normal_(std=0.3, generator=generator)
        model.heads.action_out_proj.weight.normal_(std=0.3, generator=generator)
    return model.to("cuda").cast(dtype).eval()


def make_inputs(seed: int, tokens: int = 9, absent: bool = False) -> tuple[Observation, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    observation = Observation(
        images=torch.rand(1, 2, 3, 56, 56, generator=generator) * 2 - 1,
        prompt=torch.randint(0, 300, (1, 20), generator=generator),
        state=torch.randn(1, 8, generator=generator),
        image_mask=torch.tensor([[True, not absent]]),
        prompt_mask=torch.arange(20)[None] < tokens,
    )
    return observation, torch.randn(1, 6, 7, generator=generator)


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_compiled_sampler_is_as_close_to_float32_as_the_plain_bf16_one(variant: str, absent: bool) -> None:
    config = VARIANTS[variant]
    inputs = [make_inputs(seed, tokens, absent) for seed, tokens in ((1, 9), (2, 16), (3, 20), (4, 9))]
    exact = [PlainSampler(make_model(torch.float32, config))(*pair) for pair in inputs]
    plain = [PlainSampler(make_model(torch.bfloat16, config))(*pair) for pair in inputs]
    fast_sampler = GraphSampler(make_model(torch.bfloat16, config))
    fast = [fast_sampler(*pair) for pair in inputs]
    for reference, rounded, compiled in zip(exact, plain, fast, strict=True):
        bf16_error = (rounded - reference).norm() / reference.norm()
        error = (compiled - reference).norm() / reference.norm()
        assert error < 2 * bf16_error + 1e-3, (error, bf16_error)


def test_compiled_sampler_in_float32_equals_the_plain_one() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    inputs = [make_inputs(seed) for seed in (1, 2)]
    plain = [PlainSampler(make_model(torch.float32))(*pair) for pair in inputs]
    sampler = GraphSampler(make_model(torch.float32))
    for pair, expected in zip(inputs, plain, strict=True):
        torch.testing.assert_close(sampler(*pair), expected, atol=2e-4, rtol=1e-3)


def test_padded_action_dimensions_stay_zero() -> None:
    mask = torch.arange(7) < 5
    observation, noise = make_inputs(1)
    actions = GraphSampler(make_model(torch.bfloat16), action_mask=mask)(observation, noise)
    assert (actions[..., 5:] == 0).all()
    assert (actions[..., :5] != 0).any()


def test_a_model_that_cannot_be_compiled_runs_plain_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(GraphSampler, "_capture", refuse)
    model = make_model(torch.bfloat16)
    pair = make_inputs(1)
    expected = PlainSampler(make_model(torch.bfloat16))(*pair)
    with caplog.at_level(logging.WARNING):
        actions = make_sampler(model)(*pair)
    assert "no compiler here" in caplog.text
    torch.testing.assert_close(actions, expected, atol=0.05, rtol=0.05)
