"""PaliGemma files that do not fit are refused with one line that names what is wrong, and nothing is loaded."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pizero.model.pi0 import Pi0
from pizero.weights.paligemma import load_paligemma, paligemma_config


def hub_key(name: str) -> str:
    """The key on the hub of a parameter of pi0."""
    if name.startswith("projector."):
        return "multi_modal_projector.linear." + name.removeprefix("projector.")
    if name.startswith("vision."):
        name = re.sub(r"^vision\.(patch|position)_embedding", r"vision.embeddings.\1_embedding", name)
        name = re.sub(r"^vision\.layers\.(\d+)\.(\w_proj|out_proj)", r"vision.encoder.layers.\1.self_attn.\2", name)
        name = re.sub(r"^vision\.layers\.(\d+)\.(fc\d)", r"vision.encoder.layers.\1.mlp.\2", name)
        name = re.sub(r"^vision\.layers\.", "vision.encoder.layers.", name)
        return "vision_tower.vision_model." + name.removeprefix("vision.")
    return "language_model.model." + name.removeprefix("vlm.")


EMBEDDING = hub_key("embed_tokens.weight")
PROJECTOR = hub_key("projector.weight")


@pytest.fixture
def model(tiny_config) -> Pi0:
    return Pi0(tiny_config).init_weights(torch.Generator().manual_seed(0))


@pytest.fixture
def tensors(tiny_model) -> dict[str, Tensor]:
    """A PaliGemma that fits the model, with the keys of the hub."""
    parts = ("vision.", "projector.", "embed_tokens.", "vlm.")
    return {hub_key(name): value.clone() for name, value in tiny_model.state_dict().items() if name.startswith(parts)}


def load(model: Pi0, tensors: dict[str, Tensor], folder: Path) -> None:
    save_file(tensors, folder / "model.safetensors")
    load_paligemma(model, folder)


def refused(model: Pi0, call: Callable[[], object]) -> str:
    """The message of the ValueError; the model is as before."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        call()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_that_fits_is_loaded(model, tiny_model, tensors, tmp_path):
    load(model, tensors, tmp_path)
    loaded, expected = model.state_dict(), tiny_model.state_dict()
    for name in loaded:
        equal = torch.equal(loaded[name], expected[name])
        assert (
            not equal
            if name == "action.layers.0.self_attn.q_proj.weight"
            else equal or name.startswith(("action.", "heads."))
        )


def test_more_rows_in_the_vocabulary_are_left_out(model, tiny_model, tensors, tmp_path):
    tensors[EMBEDDING] = torch.cat([tensors[EMBEDDING], torch.full((3, 32), 9.0)])
    load(model, tensors, tmp_path)
    assert torch.equal(model.embed_tokens.weight, tiny_model.embed_tokens.weight)


def test_fewer_rows_in_the_vocabulary_than_the_model_needs_are_refused(model, tensors, tmp_path):
    tensors[EMBEDDING] = tensors[EMBEDDING][:16].clone()
    message = refused(model, lambda: load(model, tensors, tmp_path))
    assert f"mis-shaped: {EMBEDDING} is (16, 32), the model needs (17, 32)" in message


def test_the_tied_head_stands_in_for_a_missing_embedding(model, tiny_model, tensors, tmp_path):
    tensors["language_model.lm_head.weight"] = tensors.pop(EMBEDDING)
    load(model, tensors, tmp_path)
    assert torch.equal(model.embed_tokens.weight, tiny_model.embed_tokens.weight)


def test_tensors_known_to_be_unused_are_allowed(model, tensors, tmp_path):
    unused = (
        "language_model.lm_head.weight",
        "vision_tower.vision_model.head.probe",
        "vision_tower.vision_model.head.mlp.fc1.weight",
        "vision_tower.vision_model.embeddings.position_ids",
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq",
    )
    load(model, {**tensors, **{key: torch.zeros(2) for key in unused}}, tmp_path)


def test_missing_unexpected_and_mis_shaped_keys_are_all_named(model, tensors, tmp_path):
    del tensors["language_model.model.norm.weight"]
    tensors["language_model.model.layers.7.mlp.up_proj.weight"] = torch.zeros(2)
    tensors[PROJECTOR] = tensors[PROJECTOR].T.contiguous()
    message = refused(model, lambda: load(model, tensors, tmp_path))
    assert "missing: vlm.norm.weight" in message
    assert "unexpected: language_model.model.layers.7.mlp.up_proj.weight" in message
    assert f"mis-shaped: {PROJECTOR} is (20, 32), the model needs (32, 20)" in message
    assert "PaliGemma as on the hub" in message


def test_at_most_twenty_keys_are_named_and_the_rest_counted(model, tensors, tmp_path):
    kept = {key: value for key, value in tensors.items() if key.startswith("vision_tower.")}
    message = refused(model, lambda: load(model, kept, tmp_path))
    absent = len(tensors) - len(kept)
    assert message.count("missing: ") == 20
    assert f"and {absent - 20} more" in message


def test_the_same_weight_under_two_names_is_refused(model, tensors, tmp_path):
    tensors["model." + PROJECTOR] = tensors[PROJECTOR].clone()
    message = refused(model, lambda: load(model, tensors, tmp_path))
    assert "twice: " in message
    assert f"model.{PROJECTOR}" in message


def test_whole_numbers_are_no_weights(model, tensors, tmp_path):
    tensors[PROJECTOR] = torch.zeros(32, 20, dtype=torch.int8)
    assert f"not floating point: {PROJECTOR} is I8" in refused(model, lambda: load(model, tensors, tmp_path))


@pytest.mark.parametrize(
    ("key", "looks_like"),
    [
        ("paligemma_with_expert.paligemma.lm_head.weight", "a pi0 policy of openpi"),
        ("joint_model.mixtures.vlm.norm.weight", "a pi0 policy of open-pi-zero"),
        ("model.layers.0.mlp.up_proj.weight", "Gemma without a vision tower"),
        ("something.else", "no layout known here; known are: PaliGemma as on the hub"),
    ],
)
def test_another_kind_of_file_is_recognised(model, tmp_path, key, looks_like):
    assert looks_like in refused(model, lambda: load(model, {key: torch.zeros(2)}, tmp_path))


def test_a_truncated_file_is_refused_by_name(model, tensors, tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(tensors, file)
    file.write_bytes(file.read_bytes()[:-1000])
    message = refused(model, lambda: load_paligemma(model, tmp_path))
    assert str(file) in message
    assert "truncated" in message


def save_shards(tensors: dict[str, Tensor], folder: Path) -> None:
    names = sorted(tensors)
    shards = {"a.safetensors": names[:10], "b.safetensors": names[10:]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards_are_joined(model, tiny_model, tensors, tmp_path):
    save_shards(tensors, tmp_path)
    load_paligemma(model, tmp_path)
    assert torch.equal(model.vlm.norm.weight, tiny_model.vlm.norm.weight)
    assert torch.equal(model.vision.post_layernorm.bias, tiny_model.vision.post_layernorm.bias)


def test_a_missing_shard_is_refused_by_name(model, tensors, tmp_path):
    save_shards(tensors, tmp_path)
    (tmp_path / "b.safetensors").unlink()
    assert "lacks 1 of 2 shards: b.safetensors" in refused(model, lambda: load_paligemma(model, tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {}}'])
def test_a_broken_index_is_refused_by_name(model, tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json" in refused(model, lambda: load_paligemma(model, tmp_path))


def test_a_path_without_weights_is_refused_with_what_is_there(model, tmp_path):
    assert "nowhere does not exist" in refused(model, lambda: load_paligemma(model, tmp_path / "nowhere"))
    assert "it holds: nothing" in refused(model, lambda: load_paligemma(model, tmp_path))
    (tmp_path / "pytorch_model.bin").touch()
    assert "it holds: pytorch_model.bin" in refused(model, lambda: load_paligemma(model, tmp_path))


def test_a_model_of_another_depth_is_refused(tiny_config, tensors, tmp_path):
    shallow = replace(tiny_config, vlm=replace(tiny_config.vlm, depth=1), action=replace(tiny_config.action, depth=1))
    message = refused(model := Pi0(shallow), lambda: load(model, tensors, tmp_path))
    assert "unexpected: language_model.model.layers.1." in message


CONFIG = {
    "model_type": "paligemma",
    "text_config": {
        "model_type": "gemma",
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "num_attention_heads": 8,
        "num_hidden_layers": 18,
        "num_key_value_heads": 1,
        "vocab_size": 257216,
    },
    "vision_config": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    },
}


def write(folder: Path, **changes: object) -> Path:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


def test_the_released_config_leaves_out_what_is_default(tmp_path, tiny_config):
    vision, vlm, vocab_size = paligemma_config(write(tmp_path))
    released = type(tiny_config)()
    assert vision == released.vision
    assert vlm == released.vlm
    assert vocab_size == 257216


@pytest.mark.parametrize("place", ["rope_theta", "rope_parameters"])
def test_the_rotary_base_is_read_as_old_and_new_transformers_write_it(tmp_path, place):
    value = 100.0 if place == "rope_theta" else {"rope_theta": 100.0, "rope_type": "default"}
    _, vlm, _ = paligemma_config(write(tmp_path, text_config={**CONFIG["text_config"], place: value}))
    assert vlm.rope_base == 100.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "llava"}, "not the config of a PaliGemma: model_type is 'llava'"),
        ({"vision_config": None}, "vision_config is None"),
        ({"text_config": {**CONFIG["text_config"], "model_type": "gemma2"}}, "'gemma2'; only 'gemma'"),
        ({"text_config": {**CONFIG["text_config"], "hidden_size": "big"}}, "text_config.hidden_size is 'big'"),
        ({"vision_config": {}}, "vision_config.hidden_size is None"),
    ],
)
def test_a_config_of_something_else_is_refused(tmp_path, changes, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        paligemma_config(write(tmp_path, **changes))


def test_a_missing_or_broken_config_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json does not exist"):
        paligemma_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(ValueError, match=r"config\.json is truncated or not JSON"):
        paligemma_config(tmp_path)
