"""What lerobot's folders say, and what in them is refused; adapters merged into their base."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pizero.weights import lerobot
from pizero.weights.facts import Facts
from pizero.weights.peft import AdapterSource, MergedSource, adapt
from pizero.weights.recipe import check
from pizero.weights.source import SafetensorsSource, Source

GOLDEN = Path(__file__).parents[2] / "parity" / "golden"
WEIGHTS, CONFIG, BEFORE, AFTER = (
    "model.safetensors",
    "config.json",
    "policy_preprocessor.json",
    "policy_postprocessor.json",
)
HEADS = Facts(vision_heads=4, horizon=6)
Q_PROJ = "paligemma_with_expert.gemma_expert.model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def pi0(tmp_path: Path) -> Path:
    return shutil.copytree(GOLDEN / "lerobot_pi0_base", tmp_path / "pi0")


@pytest.fixture
def pi05(tmp_path: Path) -> Path:
    return shutil.copytree(GOLDEN / "lerobot_pi05_base", tmp_path / "pi05")


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def step(pipeline: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry["config"] for entry in pipeline["steps"] if entry["registry_name"] == name)


def both(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the normalisation of the config and of both steps alike."""
    edit(folder / CONFIG, lambda config: change(config["normalization_mapping"]))
    edit(folder / BEFORE, lambda pipeline: change(step(pipeline, "normalizer_processor")["norm_map"]))
    edit(folder / AFTER, lambda pipeline: change(step(pipeline, "unnormalizer_processor")["norm_map"]))


def facts(folder: Path) -> Facts:
    source = lerobot.open_source(folder)
    assert source is not None
    return lerobot.facts(folder, source)


def planned(folder: Path, said: Facts = HEADS) -> tuple[Source, Any]:
    source = lerobot.open_source(folder)
    assert source is not None
    plan = lerobot.plan(source, said)
    check(source, plan.recipes, plan.unused)
    return source, plan


@pytest.mark.parametrize(
    ("case", "normalization", "prompt_format", "prompt_length"),
    [
        ("lerobot_pi0_base", "lerobot-z-score", "lerobot-pi0", 24),
        ("lerobot_pi05_base", "lerobot-quantile", "pi05", 112),
    ],
)
def test_a_folder_says_all_of_its_policy(case, normalization, prompt_format, prompt_length):
    said = facts(GOLDEN / case)
    assert (said.horizon, said.normalization, said.prompt_format) == (6, normalization, prompt_format)
    assert (said.prompt_length, said.resize, said.delta_actions) == (prompt_length, "lerobot", ())
    assert (said.raw_state, said.raw_actions, said.joint_units) == ((), (), "robot")
    assert said.tokenizer == GOLDEN / case / "tokenizer" / "tokenizer.json"
    assert said.robot is not None
    assert said.robot.cameras == ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
    assert said.robot.state == tuple(f"state_{i}" for i in range(8))
    assert said.robot.actions == tuple(f"action_{i}" for i in range(7))
    assert said.robot.action_low == ()
    assert said.stats is not None
    assert len(said.stats.state.mean) == 8
    assert said.stats.actions.count is None
    assert lerobot.needs(lerobot.open_source(GOLDEN / case), said).keys() == {"horizon", "vision_heads"}


def test_embed_tokens_win_over_the_head_of_words(pi0):
    source, plan = planned(pi0)
    tensors = load_file(pi0 / WEIGHTS)
    ours = plan.recipes["embed_tokens.weight"].make(source)
    assert torch.equal(ours, tensors["model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"])


def test_the_head_of_words_stands_in_for_absent_embed_tokens(pi0):
    tensors = load_file(pi0 / WEIGHTS)
    del tensors["model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"]
    save_file(tensors, pi0 / WEIGHTS)
    source, plan = planned(pi0)
    ours = plan.recipes["embed_tokens.weight"].make(source)
    assert torch.equal(ours, tensors["model.paligemma_with_expert.paligemma.lm_head.weight"])


def test_keys_without_model_in_front_and_shards_give_the_same(pi0):
    expected_source, expected = planned(pi0)
    weights = {name: recipe.make(expected_source) for name, recipe in expected.recipes.items()}
    tensors = {key.removeprefix("model."): value for key, value in load_file(pi0 / WEIGHTS).items()}
    (pi0 / WEIGHTS).unlink()
    keys = sorted(tensors)
    parts = {"a.safetensors": keys[:50], "b.safetensors": keys[50:]}
    for name, part in parts.items():
        save_file({key: tensors[key] for key in part}, pi0 / name)
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (pi0 / "model.safetensors.index.json").write_text(json.dumps(index))
    source, plan = planned(pi0)
    assert all(torch.equal(plan.recipes[name].make(source), weight) for name, weight in weights.items())


def test_a_file_without_config_is_recognised_and_asks_for_the_rest(pi05):
    (pi05 / CONFIG).unlink()
    source = lerobot.open_source(pi05 / WEIGHTS)
    assert source is not None
    said = lerobot.facts(pi05 / WEIGHTS, source)
    assert (said.horizon, said.robot, said.stats, said.normalization) == (None, None, None, None)
    assert "horizon" in lerobot.needs(source, said)


@pytest.mark.parametrize("case", ["openpi_pi0_base", "paligemma/base/hf_5_23"])
def test_folders_of_others_are_not_lerobots(case):
    assert lerobot.open_source(GOLDEN / case) is None


def test_statistics_before_v0_4_are_refused_with_the_way_out(pi0):
    tensors = load_file(pi0 / WEIGHTS)
    tensors["normalize_inputs.buffer_observation_state.mean"] = torch.zeros(8)
    save_file(tensors, pi0 / WEIGHTS)
    with pytest.raises(ValueError, match=r"before v0\.4.*migrate_policy_normalization"):
        lerobot.open_source(pi0)


def test_weights_of_the_other_class_are_refused(pi0, pi05):
    shutil.copy(pi05 / WEIGHTS, pi0 / WEIGHTS)
    with pytest.raises(ValueError, match=r"type is 'pi0'.*belongs to other weights"):
        planned(pi0)


def test_a_pi05_time_network_in_a_pi0_is_unexpected(pi0):
    tensors = load_file(pi0 / WEIGHTS)
    tensors["model.time_mlp_in.weight"] = torch.zeros(64, 64)
    save_file(tensors, pi0 / WEIGHTS)
    with pytest.raises(ValueError, match=r"unexpected: model\.time_mlp_in\.weight"):
        planned(pi0)


def test_cameras_that_are_always_absent_are_left_out(pi0):
    def change(config: dict[str, Any]) -> None:
        config["empty_cameras"] = 1
        feature = config["input_features"].pop("observation.images.left_wrist_0_rgb")
        config["input_features"]["observation.images.empty_camera_0"] = feature

    edit(pi0 / CONFIG, change)
    assert facts(pi0).robot.cameras == ("base_0_rgb", "right_wrist_0_rgb")


def test_renamed_cameras_have_the_robots_own_names(pi0):
    names = {"observation.images.front": "observation.images.base_0_rgb"}
    edit(pi0 / BEFORE, lambda p: step(p, "rename_observations_processor").update(rename_map=names))
    assert facts(pi0).robot.cameras == ("front", "left_wrist_0_rgb", "right_wrist_0_rgb")


@pytest.mark.parametrize(
    ("modes", "message"),
    [
        ({"STATE": "MIN_MAX", "ACTION": "MIN_MAX"}, "MIN_MAX is not supported; supported are MEAN_STD, QUANTILES"),
        ({"STATE": "QUANTILES"}, "normalised alike"),
        ({"VISUAL": "MEAN_STD"}, "only IDENTITY"),
    ],
)
def test_other_normalisations_are_refused(pi0, modes, message):
    both(pi0, lambda norm_map: norm_map.update(modes))
    with pytest.raises(ValueError, match=message):
        facts(pi0)


def test_identity_needs_no_statistics(pi0):
    both(pi0, lambda norm_map: norm_map.update(STATE="IDENTITY", ACTION="IDENTITY"))
    assert (facts(pi0).normalization, facts(pi0).stats) == ("identity", None)


def test_files_that_disagree_on_the_normalisation_are_refused(pi0):
    edit(pi0 / CONFIG, lambda config: config["normalization_mapping"].update(STATE="QUANTILES"))
    with pytest.raises(ValueError, match="different normalisations of STATE"):
        facts(pi0)


def test_another_eps_is_refused(pi0):
    edit(pi0 / AFTER, lambda pipeline: step(pipeline, "unnormalizer_processor").update(eps=1e-6))
    with pytest.raises(ValueError, match=r"eps .* is 1e-06, only 1e-08"):
        facts(pi0)


def test_statistics_are_found_whatever_the_number_of_their_step(pi0):
    old, new = (f"policy_preprocessor_step_{i}_normalizer_processor.safetensors" for i in (6, 11))
    (pi0 / old).rename(pi0 / new)
    with pytest.raises(ValueError, match=old):
        facts(pi0)
    edit(pi0 / BEFORE, lambda pipeline: pipeline["steps"][6].update(state_file=new))
    assert facts(pi0).stats.to_json() == facts(GOLDEN / "lerobot_pi0_base").stats.to_json()


def test_other_statistics_after_the_policy_are_refused(pi0):
    file = next(pi0.glob("policy_postprocessor_step_*"))
    tensors = load_file(file)
    tensors["action.std"][3] += 1
    save_file(tensors, file)
    with pytest.raises(ValueError, match="other statistics before the policy than after it"):
        facts(pi0)


def test_a_folder_without_statistics_asks_for_them(pi0):
    for name in (BEFORE, AFTER):
        edit(pi0 / name, lambda pipeline: [entry.pop("state_file", None) for entry in pipeline["steps"]])
    assert facts(pi0).stats is None


def make_relative(folder: Path, names: list[str] | None, excluded: list[str]) -> None:
    relative = {"enabled": True, "exclude_joints": excluded, "action_names": names}
    edit(folder / BEFORE, lambda pipeline: step(pipeline, "relative_actions_processor").update(relative))
    edit(folder / AFTER, lambda pipeline: step(pipeline, "absolute_actions_processor").update(enabled=True))
    said = {"use_relative_actions": True, "relative_exclude_joints": excluded, "action_feature_names": names}
    edit(folder / CONFIG, lambda config: config.update(said))


def test_relative_actions_are_all_but_those_whose_names_hold_an_excluded_one(pi0):
    names = [f"Joint_{i}" for i in range(6)] + ["Left_Gripper.pos"]
    make_relative(pi0, names, ["gripper"])
    assert facts(pi0).delta_actions == tuple(names[:6])
    assert facts(pi0).robot.actions == tuple(names)


def test_relative_actions_without_names_are_asked_for(pi0):
    make_relative(pi0, None, ["gripper"])
    assert facts(pi0).delta_actions is None
    assert "delta_actions" in lerobot.needs(lerobot.open_source(pi0), facts(pi0))


def test_relative_actions_that_are_not_undone_are_refused(pi0):
    make_relative(pi0, None, [])
    assert len(facts(pi0).delta_actions) == 7
    edit(pi0 / AFTER, lambda pipeline: step(pipeline, "absolute_actions_processor").update(enabled=False))
    with pytest.raises(ValueError, match=r"actions are relative: True .* False .* True"):
        facts(pi0)


def test_a_pi05_prompt_without_state(pi05):
    name = "pi05_prepare_state_tokenizer_processor_step"
    edit(pi05 / BEFORE, lambda pipeline: step(pipeline, name).update(include_state_in_prompt=False))
    assert facts(pi05).prompt_format == "pi05-stateless"


def test_steps_and_memories_that_are_not_understood_are_refused(pi05):
    edit(pi05 / CONFIG, lambda config: config.update(use_visual_memory=True))
    with pytest.raises(ValueError, match="use_visual_memory is true"):
        facts(pi05)
    edit(pi05 / BEFORE, lambda pipeline: pipeline["steps"].append({"registry_name": "crop_images"}))
    with pytest.raises(ValueError, match="step crop_images is not supported"):
        facts(pi05)


def test_periods_of_the_time_embedding_come_from_the_config(pi0):
    edit(pi0 / CONFIG, lambda config: config.update(min_period=0.01, max_period=2))
    _, plan = planned(pi0)
    assert (plan.model.time_min_period, plan.model.time_max_period, plan.model.euler_grid) == (0.01, 2.0, "lerobot")


def test_a_config_of_other_sizes_is_refused(pi0):
    edit(pi0 / CONFIG, lambda config: config.update(max_state_dim=16))
    with pytest.raises(ValueError, match="max_state_dim is 16, the tensors say 32"):
        planned(pi0)


def write_adapter(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    plain = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(plain | config))
    return folder


def factors(key: str = f"model.{Q_PROJ}") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    module = "base_model.model." + key.removesuffix(".weight")
    return {
        f"{module}.lora_A.weight": torch.randn(4, 64, generator=generator),
        f"{module}.lora_B.weight": torch.randn(128, 4, generator=generator),
    }


def base(path: Path) -> Source:
    source = lerobot.open_source(path)
    assert source is not None
    return source


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 6 / 4),
        ({"use_rslora": True}, 6 / 2),
        ({"alpha_pattern": {"layers.1.self_attn.q_proj": 10, "q_proj": 1}}, 10 / 4),
        ({"r": 9, "rank_pattern": {".*q_proj": 4}}, 6 / 4),
    ],
)
def test_an_adapter_is_added_with_its_scale(tmp_path, config, scale):
    tensors = factors()
    folder = write_adapter(tmp_path / "adapter", tensors, **config)
    source = base(GOLDEN / "lerobot_pi0_base")
    merged = MergedSource(source, folder)
    a, b = tensors.values()
    expected = (source.read(f"model.{Q_PROJ}").double() + scale * (b.double() @ a.double())).float()
    torch.testing.assert_close(merged.read(f"model.{Q_PROJ}"), expected, atol=0, rtol=1e-6)
    assert torch.equal(merged.read(f"model.{Q_PROJ}", 3), merged.read(f"model.{Q_PROJ}")[3])
    assert torch.equal(merged.read("model.state_proj.weight"), source.read("model.state_proj.weight"))


def test_a_merged_bfloat16_weight_keeps_what_was_added(tmp_path):
    save_file({f"model.{Q_PROJ}": torch.ones(128, 64, dtype=torch.bfloat16)}, tmp_path / WEIGHTS)
    folder = write_adapter(tmp_path / "adapter", {key: x / 30 for key, x in factors().items()})
    merged = MergedSource(SafetensorsSource(tmp_path, [tmp_path / WEIGHTS]), folder)
    assert merged.tensors[f"model.{Q_PROJ}"].dtype is torch.float32
    assert (merged.read(f"model.{Q_PROJ}") != 1).float().mean() > 0.99


def test_whole_weights_of_an_adapter_replace_those_of_the_base(tmp_path):
    tensors = {"base_model.model.model.state_proj.modules_to_save.weight": torch.ones(64, 32)}
    merged = MergedSource(base(GOLDEN / "lerobot_pi0_base"), write_adapter(tmp_path / "adapter", factors() | tensors))
    assert torch.equal(merged.read("model.state_proj.weight"), torch.ones(64, 32))


def test_an_adapter_beside_the_weights_is_merged_when_the_folder_is_opened(pi0):
    plain = base(pi0)
    write_adapter(pi0, factors())
    source, plan = planned(pi0)
    ours = plan.recipes["action.layers.1.self_attn.q_proj.weight"].make(source)
    assert not torch.equal(ours, plain.read(f"model.{Q_PROJ}"))
    assert facts(pi0).horizon == 6


def test_an_adapter_alone_asks_for_its_base_and_keeps_its_own_config(pi0, pi05):
    (pi0 / WEIGHTS).unlink()
    write_adapter(pi0, factors())
    source = base(pi0)
    assert isinstance(source, AdapterSource)
    said = lerobot.facts(pi0, source)
    assert lerobot.needs(source, said).keys() == {"base"}
    assert adapt(source, said, base) is source
    whole = adapt(source, Facts(base=GOLDEN / "lerobot_pi0_base"), base)
    assert whole.path == pi0
    plan = lerobot.plan(whole, HEADS)
    check(whole, plan.recipes, plan.unused)


def test_an_adapter_of_the_users_choice_is_merged(tmp_path):
    folder = write_adapter(tmp_path / "adapter", factors(Q_PROJ))  # the base's keys have model. in front
    source = base(GOLDEN / "lerobot_pi0_base")
    merged = adapt(source, Facts(adapter=folder), base)
    assert merged.path == source.path
    assert not torch.equal(merged.read(f"model.{Q_PROJ}"), source.read(f"model.{Q_PROJ}"))
    with pytest.raises(ValueError, match=r"--adapter: .* has no adapter_config"):
        adapt(source, Facts(adapter=tmp_path / "nothing"), base)
    with pytest.raises(ValueError, match=r"--base: .* holds all its weights itself"):
        adapt(source, Facts(base=tmp_path), base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora is True, only False"),
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA', only 'LORA'"),
        ({"bias": "all"}, "bias is 'all', only 'none'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"r": 8}, "has rank 4, adapter_config.json says 8"),
        ({"lora_alpha": None}, "lora_alpha is None, must be a number above 0"),
    ],
)
def test_adapters_of_another_kind_are_refused(tmp_path, change, message):
    folder = write_adapter(tmp_path / "adapter", factors(), **change)
    with pytest.raises(ValueError, match=message):
        MergedSource(base(GOLDEN / "lerobot_pi0_base"), folder)


def test_an_adapter_of_another_base_is_refused(tmp_path):
    strange = factors("model.lm_expert.q_proj.weight")
    with pytest.raises(ValueError, match=r"no weight of the base belongs to .*lm_expert"):
        MergedSource(base(GOLDEN / "lerobot_pi0_base"), write_adapter(tmp_path / "a", strange))
    half = dict(list(factors().items())[:1])
    with pytest.raises(ValueError, match=r"has no other factor"):
        MergedSource(base(GOLDEN / "lerobot_pi0_base"), write_adapter(tmp_path / "b", half))
    wide = {key: torch.zeros(4, 80) if "lora_A" in key else x for key, x in factors().items()}
    with pytest.raises(
        ValueError, match=r"is \(4, 80\) and its B is \(128, 4\), the weight of the base is \(128, 64\)"
    ):
        MergedSource(base(GOLDEN / "lerobot_pi0_base"), write_adapter(tmp_path / "c", wide))
