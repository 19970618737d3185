"""PaliGemma: the same image features and hidden states as transformers, from every key layout it has written."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pizero.model.config import GemmaConfig, Pi0Config
from pizero.model.pi0 import Pi0
from pizero.types import Observation
from pizero.weights.paligemma import load_paligemma, paligemma_config

GOLDEN = Path(__file__).parent / "golden" / "paligemma" / "base"
LAYOUTS = ["official", "hf_5_23", "hf_5_5", "hf_4_52_in_memory"]


def build(folder: Path, vocab_size: int | None = None) -> Pi0:
    """A pi0 around the PaliGemma in a folder, with a small action expert."""
    vision, vlm, rows = paligemma_config(folder)
    action = GemmaConfig(
        width=24,
        mlp_dim=28,
        depth=vlm.depth,
        num_heads=vlm.num_heads,
        num_kv_heads=vlm.num_kv_heads,
        head_dim=vlm.head_dim,
        rope_base=vlm.rope_base,
    )
    model = Pi0(Pi0Config(vision=vision, vlm=vlm, action=action, vocab_size=vocab_size or rows))
    load_paligemma(model, folder)
    return model.requires_grad_(False)


def assert_near(ours: torch.Tensor, theirs: torch.Tensor, relative: float = 1e-5) -> None:
    """Largest difference against the largest value."""
    assert torch.isfinite(theirs).all()
    assert (ours - theirs).abs().max() <= relative * theirs.abs().max()


@pytest.fixture(scope="module")
def golden_inputs() -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / "inputs.npz").items()}


@pytest.fixture(scope="module")
def golden_expected() -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / "expected_float32.npz").items()}


@pytest.fixture(scope="module", params=LAYOUTS)
def golden_model(request: pytest.FixtureRequest) -> Pi0:
    return build(GOLDEN / request.param)


@pytest.fixture(scope="module")
def golden_observation(golden_inputs: dict[str, torch.Tensor]) -> Observation:
    length = int(golden_inputs["prefix_len"].max())
    return Observation(
        images=golden_inputs["pixel_values"][:, None],
        prompt=golden_inputs["input_ids"][:, 16:length],
        state=torch.zeros(3, 32),
        prompt_mask=torch.arange(16, length) < golden_inputs["prefix_len"][:, None],
    )


def test_vision_tower_and_projector(golden_model, golden_inputs, golden_expected):
    assert_near(golden_model.vision(golden_inputs["pixel_values"]), golden_expected["vision_last_hidden"])
    assert_near(golden_model.embed_images(golden_inputs["pixel_values"][:, None]), golden_expected["image_features"])


def test_what_enters_the_first_layer(golden_model, golden_observation, golden_expected):
    tokens, _, mask = golden_model.embed_prefix(golden_observation)
    assert_near(tokens[mask], golden_expected["prefix_embeddings"][mask])


def test_hidden_states_and_logits_of_a_ragged_batch(golden_model, golden_observation, golden_expected):
    tokens, positions, mask = golden_model.embed_prefix(golden_observation)
    hidden = golden_model.vlm(tokens, positions, mask)
    assert_near(hidden[mask], golden_expected["hidden_last_prefix"][mask])
    assert_near(hidden[mask] @ golden_model.embed_tokens.weight.T, golden_expected["logits_prefix"][mask])


def test_positions_may_start_at_any_number(golden_model, golden_observation, golden_expected):
    tokens, positions, mask = golden_model.embed_prefix(golden_observation)
    assert_near(golden_model.vlm(tokens, positions + 1, mask)[mask], golden_expected["hidden_last_prefix"][mask])


@pytest.fixture(scope="module")
def theirs(randomise) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "image_size": 28,
            "patch_size": 14,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "gemma",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 10,
            "vocab_size": 60,
        },
        projection_dim=32,
        image_token_index=50,
    )
    model = transformers.PaliGemmaForConditionalGeneration(config).eval().requires_grad_(False)
    randomise(model, seed=3)
    model.tie_weights()
    return model


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    theirs.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    prompt = torch.randint(3, 40, (3, 6), generator=generator)
    mask = torch.arange(6) < torch.tensor([[6], [2], [4]])
    return {
        "pixel_values": torch.rand(3, 3, 28, 28, generator=generator) * 2 - 1,
        "input_ids": torch.cat([torch.full((3, 4), 50), prompt * mask], dim=1),
        "attention_mask": torch.cat([torch.ones(3, 4, dtype=torch.bool), mask], dim=1).long(),
        # without them the mask of transformers depends on its backend and on padding
        "token_type_ids": torch.zeros(3, 10, dtype=torch.long),
    }


def check(model: Pi0, theirs: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    features = theirs.model.get_image_features(inputs["pixel_values"]).pooler_output
    assert_near(model.embed_images(inputs["pixel_values"][:, None]), features)
    mask = inputs["attention_mask"].bool()
    observation = Observation(
        inputs["pixel_values"][:, None], inputs["input_ids"][:, 4:], torch.zeros(3, 32), prompt_mask=mask[:, 4:]
    )
    tokens, positions, ours_mask = model.embed_prefix(observation)
    assert torch.equal(ours_mask, mask)
    assert_near(model.vlm(tokens, positions, mask)[mask], theirs.model(**inputs).last_hidden_state[mask])


def test_one_file_gives_the_same_hidden_states(theirs, folder, inputs):
    assert (folder / "model.safetensors").is_file()
    check(build(folder), theirs, inputs)


def test_shards_give_the_same_hidden_states(theirs, inputs, tmp_path):
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(set(json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"].values())) > 2
    check(build(tmp_path), theirs, inputs)


@pytest.mark.parametrize("tied", ["embed_tokens", "lm_head", "both"])
def test_names_in_memory_give_the_same_hidden_states(theirs, folder, inputs, tmp_path, tied):
    tensors = {key: value.clone() for key, value in theirs.state_dict().items()}
    if tied == "lm_head":
        del tensors["model.language_model.embed_tokens.weight"]
    elif tied == "both":  # untied by some writers: embed_tokens is the one that the model reads
        tensors["lm_head.weight"] = torch.zeros_like(tensors["lm_head.weight"])
    else:
        del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    check(build(tmp_path), theirs, inputs)


def test_a_model_with_a_smaller_vocabulary_takes_the_first_rows(theirs, folder, inputs):
    model = build(folder, vocab_size=45)
    assert torch.equal(model.embed_tokens.weight, theirs.model.language_model.embed_tokens.weight[:45])
    check(model, theirs, inputs)


def test_what_is_not_in_paligemma_stays(folder):
    model = build(folder)
    before = {key: value.clone() for key, value in model.state_dict().items() if key.startswith(("action.", "heads."))}
    load_paligemma(model, folder)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_weights_take_the_dtype_of_the_model(folder):
    reference = build(folder)
    model = Pi0(reference.config).to(torch.bfloat16)
    load_paligemma(model, folder)
    assert torch.equal(model.projector.weight, reference.projector.weight.bfloat16())


def test_bfloat16_files_load_into_a_float32_model(folder, tmp_path):
    save_file({k: v.bfloat16() for k, v in load_file(folder / "model.safetensors").items()}, tmp_path / "x.safetensors")
    reference = build(folder)
    model = Pi0(reference.config)
    load_paligemma(model, tmp_path / "x.safetensors")
    assert torch.equal(model.projector.weight, reference.projector.weight.bfloat16().float())
