"""The network that a run starts with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pizero.data.batch import Batch
from pizero.model.pi0 import Pi0
from pizero.train.config import TrainConfig
from pizero.train.initial import make_model
from pizero.train.optimizer import optimizer_tensors
from pizero.train.recordings import find_tokenizer
from pizero.train.state import TrainState, make_state
from pizero.train.step import train_step
from pizero.weights.checkpoint import load_checkpoint

CPU = torch.device("cpu")


def test_fresh_weights_come_from_the_seed(config: TrainConfig) -> None:
    first, again, other = (make_model(replace(config, seed=seed), CPU).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embed_tokens.weight"], other["embed_tokens.weight"])


def test_a_run_starts_from_the_weights_of_a_checkpoint(config: TrainConfig, saved: Path, trained: TrainState) -> None:
    longer = replace(config.model, horizon=9)  # which no weight depends on
    state = make_state(replace(config, init=saved, model=longer), CPU)
    policy = load_checkpoint(saved).model
    for name, parameter in state.model.named_parameters():
        assert torch.equal(parameter, policy.get_parameter(name)), name
    assert state.ema is not None
    assert torch.equal(state.ema.average["heads.state_proj.bias"], policy.get_parameter("heads.state_proj.bias"))
    assert state.step == 0
    assert not any(tensor.any() for tensor in optimizer_tensors(state.optimizer, state.parameters).values())


def test_a_checkpoint_of_other_sizes_is_refused_by_field(config: TrainConfig, saved: Path) -> None:
    other = replace(config.model, state_dim=8, action=replace(config.model.action, mlp_dim=9))
    with pytest.raises(ValueError) as error:
        make_state(replace(config, init=saved, model=other), CPU)
    assert "action.mlp_dim is 9 now and 28 there; state_dim is 8 now and 6 there" in str(error.value)


def test_init_must_be_a_folder(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"init: .*nowhere is no folder; give a checkpoint, or google/paligemma"):
        make_state(replace(config, init=tmp_path / "nowhere"), CPU)
    with pytest.raises(ValueError, match=r"init: .*nowhere is no folder"):
        find_tokenizer(replace(config, init=tmp_path / "nowhere"), ("open it",))


def test_a_run_starts_from_a_paligemma_and_may_freeze_it(
    config: TrainConfig, paligemma: Path, batch: Batch, randomise: Callable[..., None]
) -> None:
    expected = Pi0(config.model)
    randomise(expected, seed=9)
    state = make_state(replace(config, init=paligemma, tune="expert"), CPU)
    for _ in range(3):
        train_step(state, batch)
    fresh = make_model(config, CPU)
    for name, parameter in state.model.named_parameters():
        if name.startswith(("action.", "heads.")):
            if parameter.ndim > 1:
                assert not torch.equal(parameter, fresh.get_parameter(name)), name
        else:
            assert torch.equal(parameter, expected.get_parameter(name)), name
