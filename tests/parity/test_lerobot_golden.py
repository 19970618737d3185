"""lerobot's pi0 and pi0.5 on tiny random weights, imported from its own folders: the same chunks and commands.

`lm_head` and `embed_tokens` differ in these files, so that reading the wrong one is seen.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from pizero.data.transform import Transform
from pizero.frame import Frame
from pizero.model.pi0 import Pi0
from pizero.types import Actions, Observation
from pizero.weights.facts import Facts
from pizero.weights.importer import load_foreign, make_transform, read_foreign

GOLDEN = Path(__file__).parent / "golden"
CASES = ("lerobot_pi0_base", "lerobot_pi05_base")


class Case(NamedTuple):
    model: Pi0
    transform: Transform
    frames: list[Frame]
    inputs: dict[str, torch.Tensor]
    expected: dict[str, torch.Tensor]

    def observation(self, row_masks: bool = False) -> Observation:
        """With all cameras present, as the policy sees them, or masked row by row."""
        observation = self.transform.observation(self.frames)
        return replace(observation, image_mask=self.inputs["row_image_masks"].T) if row_masks else observation


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    path = GOLDEN / request.param
    foreign = read_foreign(path, {"the user": Facts(vision_heads=4)})
    inputs, expected = (
        {key: torch.from_numpy(value) for key, value in np.load(path / name).items()}
        for name in ("inputs.npz", "expected_float32.npz")
    )
    tasks = json.loads((path / "case.json").read_text())["tasks"]
    transform = make_transform(foreign, path)
    cameras = transform.config.embodiment.cameras
    frames = [
        Frame(
            images={camera: inputs["images_uint8"][view, row].numpy() for view, camera in enumerate(cameras)},
            state=inputs["raw_state"][row].numpy(),
            prompt=task,
        )
        for row, task in enumerate(tasks)
    ]
    return Case(load_foreign(foreign).requires_grad_(False), transform, frames, inputs, expected)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_frames_become_the_observations_of_lerobot(case):
    observation = case.observation()
    assert torch.equal(observation.prompt, case.expected["tokens"])
    assert torch.equal(observation.prompt_mask, case.expected["token_mask"])
    close(observation.images.transpose(0, 1), case.expected["images_model"])
    close(observation.state[:, :8], case.expected["state_normalized"])


def test_velocity_is_minus_that_of_lerobot_at_the_turned_time(case):
    cache = case.model.prefill(case.observation(row_masks=True))
    v_t = case.model.velocity(cache, case.expected["x_t"], 1 - case.inputs["time"].double())
    close(v_t, -case.expected["v"])


def test_loss_is_that_of_lerobot_without_sigma(case):
    """Over all 32 dimensions; padded ones are zero."""
    values = torch.nn.functional.pad(case.expected["actions_normalized"], (0, 25))
    actions = Actions(values, torch.ones_like(values, dtype=torch.bool))
    loss = case.model.loss(
        case.observation(row_masks=True), actions, 1 - case.inputs["time"].double(), case.inputs["noise"], sigma_min=0.0
    )
    torch.testing.assert_close(loss.float(), case.expected["loss"].mean(), atol=0, rtol=1e-4)


@pytest.mark.parametrize("num_steps", [5, 10])
def test_sampled_actions_are_those_of_lerobot(case, num_steps):
    actions = case.model.sample(case.observation(row_masks=True), num_steps, noise=case.inputs["start_noise"])
    close(actions, case.expected[f"actions_N{num_steps}"])


def test_commands_are_those_of_lerobot(case):
    chunk = case.model.sample(case.observation(), noise=case.inputs["start_noise"])
    close(chunk[..., :7], case.expected["chunk_all"])
    commands = case.transform.invert_actions(chunk, case.inputs["raw_state"].numpy())
    close(torch.from_numpy(commands), case.expected["env_chunk_all"])


def test_commands_without_the_middle_camera_are_those_of_lerobot(case):
    """lerobot puts an absent camera last, here it stays in its place: positions count real tokens, so both agree."""
    camera = case.transform.config.embodiment.cameras[1]
    frames = [
        replace(frame, images={name: image for name, image in frame.images.items() if name != camera})
        for frame in case.frames
    ]
    chunk = case.model.sample(case.transform.observation(frames), noise=case.inputs["start_noise"])
    commands = case.transform.invert_actions(chunk, case.inputs["raw_state"].numpy())
    close(torch.from_numpy(commands), case.expected["env_chunk_missing_middle"])
