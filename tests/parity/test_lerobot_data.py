"""lerobot's processors: raw pictures, states, actions and instructions to what its pi0 and pi0.5 take, and back."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pizero.data.prompt import Tokenizer, pieces
from pizero.data.stats import DatasetStats, Stats
from pizero.data.transform import Transform, TransformConfig
from pizero.embodiment import Embodiment
from pizero.frame import Frame

GOLDEN = Path(__file__).parent / "golden"
CASES = {"lerobot_pi0_base": ("lerobot-z-score", "lerobot-pi0"), "lerobot_pi05_base": ("lerobot-quantile", "pi05")}
CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
ROBOT = Embodiment(
    "arm", CAMERAS, tuple(f"s{i}" for i in range(8)), tuple(f"a{i}" for i in range(7)), None, (), ()
)  # fmt: skip


class Case:
    def __init__(self, name: str) -> None:
        folder = GOLDEN / name
        self.normalization, self.prompt_format = CASES[name]
        self.facts = json.loads((folder / "case.json").read_text())
        with np.load(folder / "inputs.npz") as inputs, np.load(folder / "expected_float32.npz") as expected:
            self.inputs, self.expected = dict(inputs), dict(expected)
        flat = load_file(next(folder.glob("policy_preprocessor_step_*_normalizer_processor.safetensors")))
        state, actions = (
            Stats(**{k: flat[f"{key}.{k}"].astype(np.float64) for k in ("mean", "std", "min", "max", "q01", "q99")},
                  count=None)
            for key in ("observation.state", "action")
        )  # fmt: skip
        sizes = self.facts["config"]
        config = TransformConfig(
            ROBOT,
            self.normalization,
            image_size=sizes["vision"]["image_size"],
            prompt_length=sizes["tokenizer_max_length"],
            horizon=sizes["action_horizon"],
            prompt_format=self.prompt_format,
            resize="lerobot",
        )
        self.transform = Transform(
            config, DatasetStats(state, actions), Tokenizer(folder / "tokenizer" / "tokenizer.json")
        )

    def frames(self) -> list[Frame]:
        pictures = self.inputs["images_uint8"]
        return [
            Frame(dict(zip(CAMERAS, pictures[:, row], strict=True)), self.inputs["raw_state"][row], task)
            for row, task in enumerate(self.facts["tasks"])
        ]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_frames_become_lerobots_inputs_bit_for_bit(case: Case) -> None:
    observation = case.transform.observation(case.frames())
    np.testing.assert_array_equal(observation.images, case.expected["images_model"].swapaxes(0, 1))
    np.testing.assert_array_equal(observation.state[:, :8], case.expected["state_normalized"])
    np.testing.assert_array_equal(observation.prompt, case.expected["tokens"])
    np.testing.assert_array_equal(observation.prompt_mask, case.expected["token_mask"])


def test_prompts_are_the_text_that_lerobot_gives_its_tokenizer(case: Case) -> None:
    states = case.expected["state_normalized"]
    for task, state, text in zip(
        case.facts["tasks"], states, case.facts["prompt_text_given_to_tokenizer"], strict=True
    ):
        assert pieces(task, case.prompt_format, state) == (text,)


def test_actions_are_lerobots_both_ways_constant_dimensions_too(case: Case) -> None:
    values, state = case.inputs["raw_actions"], case.inputs["raw_state"]
    actions = case.transform.actions(values, np.ones(values.shape[:2], bool), state)
    np.testing.assert_array_equal(actions.values[..., :7], case.expected["actions_normalized"])
    assert not actions.values[..., 7:].any()
    chunk = torch.from_numpy(np.pad(case.expected["chunk_all"], ((0, 0), (0, 0), (0, 25))))
    np.testing.assert_array_equal(case.transform.invert_actions(chunk, state), case.expected["env_chunk_all"])


def test_an_absent_camera_is_minus_one_and_masked(case: Case) -> None:
    frame = case.frames()[0]
    alone = Frame({"base_0_rgb": frame.images["base_0_rgb"]}, frame.state, frame.prompt)
    observation = case.transform.observation([alone])
    assert observation.image_mask.tolist() == [[True, False, False]]
    assert (observation.images[0, 1:] == -1).all()
