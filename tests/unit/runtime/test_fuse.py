import copy

import torch

from pizero.runtime.fuse import fuse
from pizero.runtime.graph import PROMPT_BUCKET, bucket_prompt
from pizero.runtime.sampler import PlainSampler, make_sampler


def test_fused_projections_give_the_same_actions(tiny_model, ragged):
    noise = torch.randn(ragged.state.shape[0], tiny_model.config.horizon, tiny_model.config.action_dim)
    plain = tiny_model.sample(ragged, noise=noise)
    fused = fuse(copy.deepcopy(tiny_model))
    assert not any("q_proj" in name for name in fused.state_dict())
    torch.testing.assert_close(fused.sample(ragged, noise=noise), plain, atol=1e-5, rtol=1e-5)


def test_a_bucketed_prompt_changes_no_action(tiny_model, ragged):
    padded = bucket_prompt(ragged)
    assert padded.prompt.shape[1] % PROMPT_BUCKET == 0
    assert padded.prompt.shape[1] > ragged.prompt.shape[1]
    noise = torch.randn(ragged.state.shape[0], tiny_model.config.horizon, tiny_model.config.action_dim)
    torch.testing.assert_close(
        tiny_model.sample(padded, noise=noise), tiny_model.sample(ragged, noise=noise), atol=1e-5, rtol=1e-5
    )


def test_on_the_cpu_the_sampler_is_the_plain_one_and_equals_the_model(tiny_model, ragged):
    noise = torch.randn(ragged.state.shape[0], tiny_model.config.horizon, tiny_model.config.action_dim)
    sampler = make_sampler(tiny_model, num_steps=3)
    assert isinstance(sampler, PlainSampler)
    torch.testing.assert_close(sampler(ragged, noise), tiny_model.sample(ragged, 3, noise), atol=1e-5, rtol=1e-5)
