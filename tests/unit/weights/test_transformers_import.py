"""transformers' own pi0, saved by its save_pretrained: the same velocity after the import."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pizero.types import Observation
from pizero.weights import lerobot, transformers_pi0
from pizero.weights.facts import Facts
from pizero.weights.importer import load_foreign, read_foreign

transformers = pytest.importorskip("transformers", minversion="5.17")

IMAGE_TOKEN, PATCHES = 50, 4
GEMMA = {
    "model_type": "gemma",
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 10,
    "vocab_size": 60,
}


@pytest.fixture(scope="module")
def theirs(randomise) -> torch.nn.Module:
    """At the released shortest period, 0.004, float32 angles are good to 1e-4 only: here it is 0.1."""
    rope = {"rope_theta": 500.0, "rope_type": "default"}
    config = transformers.PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 24,
                "intermediate_size": 40,
                "num_hidden_layers": 2,
                "num_attention_heads": 3,
                "image_size": 28,
                "patch_size": 14,
                "vision_use_head": False,
            },
            "text_config": GEMMA | {"hidden_size": 32, "intermediate_size": 48},
            "projection_dim": 32,
            "image_token_index": IMAGE_TOKEN,
        },
        dit_config=GEMMA | {"hidden_size": 20, "intermediate_size": 28, "rope_parameters": rope},
        chunk_size=4,
        max_state_dim=7,
        max_action_dim=6,
        min_period=0.1,
    )
    model = transformers.PI0ForConditionalGeneration(config).eval().requires_grad_(False)
    randomise(model, seed=1)
    return model


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("transformers") / "pi0"
    theirs.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def in_memory(theirs, folder, tmp_path_factory) -> Path:
    """The same under the names of transformers' modules."""
    path = tmp_path_factory.mktemp("transformers") / "in_memory"
    path.mkdir()
    (path / "config.json").write_text((folder / "config.json").read_text())
    save_file({key: value.clone() for key, value in theirs.state_dict().items()}, path / "model.safetensors")
    return path


def test_the_config_says_the_sizes_that_shapes_do_not(folder):
    source = transformers_pi0.open_source(folder)
    said = transformers_pi0.facts(folder, source)
    assert (said.horizon, said.vision_heads, said.vlm_rope_base, said.action_rope_base) == (4, 3, 10_000.0, 500.0)
    assert (said.robot, said.stats, said.prompt_format, said.resize) == (None, None, None, None)
    model = transformers_pi0.plan(source, said).model
    assert (model.state_dim, model.action_dim, model.vision.image_size) == (7, 6, 28)
    assert (model.time_min_period, model.time_max_period, model.euler_grid) == (0.1, 4.0, "lerobot")


def test_velocity_is_minus_theirs_at_the_turned_time(theirs, folder, in_memory):
    """Three cameras, of which the middle one is absent in row 1; prompts of 5, 3 and 1 tokens, padded on the right."""
    generator = torch.Generator().manual_seed(2)
    observation = Observation(
        images=torch.rand(3, 3, 3, 28, 28, generator=generator) * 2 - 1,
        prompt=torch.randint(0, IMAGE_TOKEN, (3, 5), generator=generator),
        state=torch.randn(3, 7, generator=generator),
        image_mask=torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=torch.bool),
        prompt_mask=torch.arange(5) < torch.tensor([[5], [3], [1]]),
    )
    noise = torch.randn(3, 4, 6, generator=generator)
    ids, mask = (torch.zeros(3, 3 * PATCHES + 5, dtype=torch.long) for _ in range(2))
    for row in range(3):
        images = torch.full((int(observation.image_mask[row].sum()) * PATCHES,), IMAGE_TOKEN)
        tokens = torch.cat([images, observation.prompt[row][observation.prompt_mask[row]]])
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    t = torch.tensor([0.25, 0.5, 0.875])  # 1 - t is exact
    expected = -theirs(
        noise=noise,
        timestep=1 - t,
        input_ids=ids,
        attention_mask=mask,
        pixel_values=observation.images,
        pixel_attention_mask=observation.image_mask,
        state=observation.state,
    ).logits
    for path in (folder, in_memory):
        foreign = read_foreign(path, {})
        assert foreign.family == transformers_pi0.NAME
        model = load_foreign(foreign).requires_grad_(False)
        v_t = model.velocity(model.prefill(observation), noise, t)
        assert (v_t - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_no_other_family_takes_the_folder(folder):
    assert lerobot.open_source(folder) is None
    assert transformers_pi0.open_source(Path(__file__).parents[2] / "parity/golden/openpi_pi0_base") is None


def test_a_missing_tensor_is_named(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    del tensors["action_time_mlp_out.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match=r"missing: action_time_mlp_out\.bias"):
        read_foreign(tmp_path, {})


def test_another_network_in_the_config_is_refused(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config["dit_config"]["num_key_value_heads"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(load_file(folder / "model.safetensors"), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"dit_config\.num_key_value_heads is 2, only 1"):
        read_foreign(tmp_path, {"the user": Facts()})
