"""Batches in model units: moving and trimming."""

from dataclasses import replace

import pytest
import torch

from pizero.types import Actions, Observation


def test_trim_drops_what_is_padding_in_every_row(ragged):
    image_mask = torch.tensor([[1, 0, 1], [1, 0, 1], [0, 0, 1]], dtype=torch.bool)
    prompt_mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    trimmed = replace(ragged, image_mask=image_mask, prompt_mask=prompt_mask).trim()
    assert torch.equal(trimmed.images, ragged.images[:, [0, 2]])
    assert torch.equal(trimmed.image_mask, image_mask[:, [0, 2]])
    assert torch.equal(trimmed.prompt, ragged.prompt[:, :3])
    assert torch.equal(trimmed.prompt_mask, prompt_mask[:, :3])
    assert torch.equal(trimmed.state, ragged.state)


def test_trim_replaces_masks_that_say_nothing_by_none(ragged):
    image_mask = torch.tensor([[1, 0, 1]] * 3, dtype=torch.bool)
    prompt_mask = torch.tensor([[1, 1, 0, 0, 0]] * 3, dtype=torch.bool)
    trimmed = replace(ragged, image_mask=image_mask, prompt_mask=prompt_mask).trim()
    assert trimmed.image_mask is None
    assert trimmed.prompt_mask is None
    assert trimmed.images.shape[1] == 2
    assert trimmed.prompt.shape[1] == 2


def test_trim_without_masks_and_trim_of_trimmed_change_nothing(ragged):
    for observation in (replace(ragged, image_mask=None, prompt_mask=None), ragged.trim()):
        trimmed = observation.trim()
        for name in ("images", "prompt", "state", "image_mask", "prompt_mask"):
            before, after = getattr(observation, name), getattr(trimmed, name)
            assert after is None if before is None else torch.equal(before, after)


def test_to_changes_the_dtype_of_pictures_only(ragged):
    moved = ragged.to("cpu", torch.bfloat16)
    assert moved.images.dtype == torch.bfloat16
    assert moved.state.dtype == torch.float32  # what the heads read is not rounded
    assert moved.prompt.dtype == torch.int64
    assert moved.image_mask.dtype == moved.prompt_mask.dtype == torch.bool
    kept = ragged.to("cpu")
    assert kept.images.dtype == torch.float32
    assert replace(ragged, image_mask=None, prompt_mask=None).to("cpu").image_mask is None


def test_to_moves_every_tensor(ragged):
    moved = ragged.to("meta")
    assert all(getattr(moved, name).is_meta for name in ("images", "prompt", "state", "image_mask", "prompt_mask"))
    actions = Actions(torch.zeros(1, 2, 3), torch.ones(1, 2, 3, dtype=torch.bool)).to("meta", torch.bfloat16)
    assert actions.values.is_meta
    assert actions.mask.is_meta
    assert actions.values.dtype == torch.bfloat16
    assert actions.mask.dtype == torch.bool


def test_shapes_that_do_not_fit_together_are_caught_in_tests():
    with pytest.raises(TypeError):  # from jaxtyping, which is on in tests only
        Observation(torch.zeros(2, 1, 3, 4, 4), torch.zeros(3, 5, dtype=torch.long), torch.zeros(2, 6))


def test_take_puts_the_numbers_of_another_batch_into_the_own_memory(ragged):
    own = ragged.clone()
    other = Observation(ragged.images + 1, ragged.prompt + 1, ragged.state + 1, ~ragged.image_mask, ~ragged.prompt_mask)
    names = ("images", "prompt", "state", "image_mask", "prompt_mask")
    places = [getattr(own, name).data_ptr() for name in names]
    assert all(getattr(ragged, name).data_ptr() not in places for name in names)
    own.take(other)
    for name, place in zip(names, places, strict=True):
        assert torch.equal(getattr(own, name), getattr(other, name))
        assert getattr(own, name).data_ptr() == place
    with pytest.raises(AssertionError, match="a mask came or went"):
        own.take(replace(other, prompt_mask=None))
