"""openpi's PyTorch folders: sizes from shapes, what a folder says of its policy, and what it does not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pizero.model.pi0 import Pi0
from pizero.weights import openpi
from pizero.weights.facts import Facts
from pizero.weights.importer import load_foreign, read_foreign
from pizero.weights.openpi import EMBEDDING, TIED, is_pi05, openpi_key
from pizero.weights.recipe import result_dtype
from pizero.weights.source import Info, SafetensorsSource

GOLDEN = Path(__file__).parents[2] / "parity" / "golden"
FILE = GOLDEN / "openpi_pi0_base" / "model.safetensors"
SAID = Facts(vision_heads=4, horizon=6)
GROUP = {"mean": [0.0, 1.0], "std": [1.0, 2.0]}


@pytest.fixture
def folder(tmp_path) -> Path:
    """The weights alone."""
    path = tmp_path / "pi0"
    path.mkdir()
    shutil.copy(FILE, path)
    return path


@pytest.fixture
def pi05(tmp_path) -> Path:
    """A pi0.5 with openpi's names."""
    tensors = load_file(GOLDEN / "lerobot_pi05_base" / "model.safetensors")
    path = tmp_path / "pi05"
    path.mkdir()
    kept = {key.removeprefix("model."): x for key, x in tensors.items() if not key.endswith("paligemma.lm_head.weight")}
    save_file(kept, path / "model.safetensors")
    return path


def facts(path: Path) -> Facts:
    source = openpi.open_source(path)
    assert source is not None
    return openpi.facts(path, source)


def write_stats(folder: Path, name: str) -> None:
    file = folder / "assets" / name / "norm_stats.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"norm_stats": {"state": GROUP, "actions": GROUP}}))


def test_sizes_are_those_of_the_case():
    case = json.loads((FILE.parent / "case.json").read_text())["config"]
    model = read_foreign(FILE, {"the test": replace(SAID, horizon=case["action_horizon"])}).plan.model
    vision, vlm, action = model.vision, model.vlm, model.action
    sizes = {"hidden_size": vision.width, "intermediate_size": vision.mlp_dim, "num_hidden_layers": vision.depth}
    sizes |= {"image_size": vision.image_size, "patch_size": vision.patch_size, "num_attention_heads": vision.num_heads}
    assert sizes.items() <= case["vision"].items()
    assert (vlm.width, vlm.mlp_dim) == (case["vlm"]["hidden_size"], case["vlm"]["intermediate_size"])
    assert (action.width, action.mlp_dim) == (case["expert"]["hidden_size"], case["expert"]["intermediate_size"])
    assert (vlm.depth, vlm.num_heads, vlm.head_dim, vlm.num_kv_heads) == (3, 8, 16, 1)
    assert (model.vocab_size, model.state_dim, model.action_dim, model.horizon) == (304, 32, 32, 6)
    assert (model.time_conditioning, model.state_token, model.euler_grid) == ("input", True, "openpi")


def test_pi05_is_told_by_its_norms(pi05):
    model = read_foreign(pi05, {"the test": SAID}).plan.model
    assert (model.time_conditioning, model.state_token) == ("adarms", False)
    assert (facts(pi05).normalization, facts(pi05).prompt_length, facts(pi05).prompt_format) == ("quantile", 200, None)


def test_one_wrong_norm_does_not_make_another_model(pi05):
    source = SafetensorsSource(pi05, [pi05 / "model.safetensors"])
    assert is_pi05(source)
    key = openpi_key("action.layers.0.input_layernorm.dense.weight")
    source.tensors[key.replace("dense.", "")] = source.tensors.pop(key)
    assert is_pi05(source)
    tensors = load_file(pi05 / "model.safetensors")
    tensors[key.replace("dense.", "")] = tensors.pop(key)
    save_file(tensors, pi05 / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing: .*layers\.0\.input_layernorm\.dense\.weight; unexpected: "):
        read_foreign(pi05, {"the test": SAID})


def test_weights_alone_say_what_every_policy_of_openpi_has(folder):
    expected = Facts(
        normalization="z-score", prompt_format="pi0", prompt_length=48, resize="pad", raw_state=(), raw_actions=()
    )
    assert facts(folder) == facts(folder / "model.safetensors") == expected


def test_config_and_statistics_beside_the_weights_are_read(folder):
    (folder / "config.json").write_text(json.dumps({"action_horizon": 9, "precision": "float32"}))
    write_stats(folder, "team/robot")
    for path in (folder, folder / "model.safetensors"):
        said = facts(path)
        assert said.horizon == 9
        assert said.stats is not None
        assert said.stats.state.std.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("horizon", [0, -1, "6", 2.5, [6]])
def test_a_horizon_that_is_none_is_refused(folder, horizon):
    (folder / "config.json").write_text(json.dumps({"action_horizon": horizon}))
    with pytest.raises(ValueError, match=r"config\.json: action_horizon is .*, must be a whole number above 0"):
        facts(folder)


def test_of_several_statistics_one_is_asked_for(folder):
    write_stats(folder, "one")
    write_stats(folder, "two")
    with pytest.raises(ValueError, match=r"--stats \(it has those of several robots, name one: .*one/.*two/"):
        read_foreign(folder, {"the test": SAID})


def test_what_no_shape_tells_is_asked_for(folder):
    with pytest.raises(ValueError, match=r"give --horizon \(no tensor's shape tells it\), --vision-heads \(no tensor"):
        read_foreign(folder, {})
    source = openpi.open_source(folder)
    assert source is not None
    source.tensors = {key: widened(key, info) for key, info in source.tensors.items()}  # type: ignore[misc]
    assert set(openpi.needs(source, Facts())) == {"horizon"}
    assert openpi.plan(source, Facts(horizon=6)).model.vision.num_heads == 16


def widened(key: str, info: Info) -> Info:
    """The vision tower as wide as So400m, whose heads are known."""
    return Info(tuple(1152 if n == 32 and "vision" in key else n for n in info.shape), info.dtype)


def test_either_name_of_the_tied_embedding_will_do(folder):
    """transformers' save_pretrained keeps one of two names that share memory."""
    tensors = load_file(folder / "model.safetensors")
    [name] = {EMBEDDING, TIED} & set(tensors)
    [other] = {EMBEDDING, TIED} - {name}
    expected = load_foreign(read_foreign(folder, {"the test": SAID})).embed_tokens.weight
    tensors[other] = tensors.pop(name)
    save_file(tensors, folder / "model.safetensors")
    again = load_foreign(read_foreign(folder, {"the test": SAID})).embed_tokens.weight
    assert torch.equal(again, expected)
    del tensors[other]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing: \S*language_model\.embed_tokens\.weight"):
        read_foreign(folder, {"the test": SAID})


def test_every_parameter_of_ours_has_a_key_of_its_own():
    model = read_foreign(FILE, {"the test": SAID}).plan.model
    with torch.device("meta"):
        names = list(Pi0(model).state_dict())
    keys = {openpi_key(name) for name in names}
    assert len(keys) == len(names)
    assert openpi_key("action.layers.3.mlp.up_proj.weight") == (
        "paligemma_with_expert.gemma_expert.model.layers.3.mlp.up_proj.weight"
    )
    with pytest.raises(AssertionError, match="nonsense"):
        openpi_key("nonsense.weight")


def test_all_but_time_and_read_out_are_copies():
    foreign = read_foreign(FILE, {"the test": SAID})
    source, recipes = foreign.source, foreign.plan.recipes
    tensors = load_file(FILE)
    tensors.setdefault(EMBEDDING, tensors.get(TIED, torch.zeros(0)))
    for name, recipe in recipes.items():
        theirs, made = tensors[openpi_key(name)], recipe.make(source)
        if name.startswith("heads.action_out_proj."):
            assert torch.equal(made, -theirs)
        elif name == "heads.action_time_mlp_in.weight":
            assert result_dtype(recipe, source) == torch.float64
            assert torch.equal(made[:, :64], theirs[:, :64].double())
            assert not torch.equal(made[:, 64:], theirs[:, 64:].double())
        else:
            assert torch.equal(made, theirs), name


def test_files_and_folders_of_others_are_left_to_them(tmp_path):
    assert openpi.open_source(tmp_path) is None
    assert openpi.open_source(GOLDEN / "paligemma" / "base" / "hf_5_23") is None
    assert openpi.open_source(GOLDEN / "open_pi_zero_rope100" / "step19296.pt") is None
    assert openpi.open_source(GOLDEN / "lerobot_pi0_base") is None
