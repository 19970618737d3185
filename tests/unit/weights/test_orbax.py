"""openpi's JAX checkpoints: what orbax wrote is read back exactly, and what is wrong with one is said."""

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts
import torch

from pizero.model.config import GemmaConfig, Pi0Config, SiglipConfig
from pizero.model.pi0 import Pi0
from pizero.weights import orbax
from pizero.weights.facts import Facts
from pizero.weights.orbax_lora import Adapter
from pizero.weights.orbax_recipes import all_recipes
from pizero.weights.orbax_source import OrbaxSource
from pizero.weights.recipe import check, result_dtype
from pizero.weights.source import Info, Source

GEMMA = {"depth": 2, "num_heads": 8, "num_kv_heads": 1, "head_dim": 4}
PI0 = Pi0Config(
    vision=SiglipConfig(width=12, depth=2, mlp_dim=20, num_heads=3, image_size=8, patch_size=2),
    vlm=GemmaConfig(width=10, mlp_dim=14, **GEMMA),
    action=GemmaConfig(width=6, mlp_dim=22, **GEMMA),
    vocab_size=26,
    state_dim=7,
    action_dim=7,
    horizon=5,
    euler_grid="openpi",
    time_rounding="openpi-jax",
)
PI05 = replace(PI0, state_token=False, time_conditioning="adarms")
LORA = {("vlm", "attn"): Adapter(2, 3.0), ("vlm", "mlp"): Adapter(3, 1.0), ("action", "attn"): Adapter(2, 3.0)}
FACTS = {"pi0": Facts(horizon=5), "pi0.5": Facts(horizon=5), "lora": Facts(horizon=5, lora_alpha=6.0)}
CONFIGS = {"pi0": PI0, "pi0.5": PI05, "lora": PI0}


def leaves(kind: str) -> dict[str, np.ndarray]:
    """Random arrays with the names and shapes of a tiny checkpoint."""
    recipes = all_recipes(CONFIGS[kind], LORA if kind == "lora" else {})
    shapes = {key: shape for recipe in recipes.values() for key, shape in recipe.expects.items()}
    draw = np.random.default_rng(0)
    return {key: draw.standard_normal(shape, np.float32) for key, shape in sorted(shapes.items())}


def write_orbax(
    folder: Path,
    arrays: Mapping[str, np.ndarray],
    *,
    start: str = "params/",
    end: str = "/value",
    ocdbt: bool = True,
    zarr3: bool = False,
    chunk: Mapping[str, tuple[int, ...]] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Path:
    """Arrays as orbax lays them out."""
    folder.mkdir(parents=True)
    tree = {}
    for key, array in arrays.items():
        path = (start + key + end).split("/")
        name = ".".join(path)
        base = {"driver": "file", "path": f"{folder}/"}
        store = {"driver": "ocdbt", "base": base, "path": f"{name}/"} if ocdbt else base | {"path": f"{folder}/{name}/"}
        ts.open(
            {"driver": "zarr3" if zarr3 else "zarr", "kvstore": store},
            create=True,
            dtype=array.dtype.name,
            shape=array.shape,
            chunk_layout=ts.ChunkLayout(chunk_shape=(chunk or {}).get(key, array.shape)),
        ).result().write(array).result()
        keys = [{"key": part, "key_type": 2} for part in path]
        tree[str(tuple(path))] = {"key_metadata": keys, "value_metadata": {"value_type": "jax.Array"}}
    metadata = {"tree_metadata": tree, "use_zarr3": zarr3, "store_array_data_equal_to_fill_value": True}
    (folder / "_METADATA").write_text(json.dumps(metadata | dict(flags or {})))
    return folder


class Memory:
    """Arrays in memory, as a `Source`."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.path = Path("memory/params")
        self._tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
        self.tensors = {key: Info(tuple(x.shape), x.dtype) for key, x in self._tensors.items()}

    def read(self, key: str, index: int | None = None) -> torch.Tensor:
        return self._tensors[key] if index is None else self._tensors[key][index]


def fits(source: Source, kind: str) -> None:
    plan = orbax.plan(source, FACTS[kind])
    check(source, plan.recipes, plan.unused)


# reading


@pytest.mark.parametrize("ocdbt", [True, False])
@pytest.mark.parametrize("zarr3", [True, False])
def test_arrays_come_back_bit_for_bit(tmp_path, ocdbt, zarr3):
    draw = np.random.default_rng(0)
    arrays = {
        "a/b": draw.standard_normal((4, 6, 5), np.float32),
        "a/c": draw.standard_normal((3, 4)).astype(ml_dtypes.bfloat16),
        "d": draw.standard_normal(3),
    }
    source = OrbaxSource(write_orbax(tmp_path / "x", arrays, ocdbt=ocdbt, zarr3=zarr3, chunk={"a/b": (3, 4, 5)}))
    assert source.tensors == {
        "a/b": Info((4, 6, 5), torch.float32),
        "a/c": Info((3, 4), torch.bfloat16),
        "d": Info((3,), torch.float64),
    }
    for i in range(4):
        assert np.array_equal(source.read("a/b", i).numpy(), arrays["a/b"][i])
    assert torch.equal(source.read("a/c").double(), torch.from_numpy(arrays["a/c"].astype(np.float64)))
    assert np.array_equal(source.read("d").numpy(), arrays["d"])


@pytest.mark.parametrize("start", ["params/", ""])
@pytest.mark.parametrize("end", ["/value", ""])
def test_what_is_common_to_all_names_is_left_out(tmp_path, start, end):
    arrays = {"a/value": np.ones(2), "value/b": np.ones(3)}
    source = OrbaxSource(write_orbax(tmp_path / "x", arrays, start=start, end=end))
    assert set(source.tensors) == {"a/value", "value/b"}


def test_other_types_are_named(tmp_path):
    source = OrbaxSource(write_orbax(tmp_path / "x", {"count": np.arange(3, dtype=np.int32)}))
    assert source.tensors["count"] == Info((3,), "int32")


def test_a_checkpoint_is_found_by_its_folder_or_by_its_params(tmp_path):
    params = write_orbax(tmp_path / "x" / "params", leaves("pi0"))
    for path in (params, params.parent):
        source = orbax.open_source(path)
        assert source is not None
        assert source.path == params
    assert orbax.open_source(tmp_path / "y") is None
    (tmp_path / "z").mkdir()
    assert orbax.open_source(tmp_path / "z") is None


def test_tensorstore_that_is_not_installed_is_asked_for(tmp_path, monkeypatch):
    params = write_orbax(tmp_path / "params", {"a": np.ones(2)})
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(ValueError, match=r"pip install 'pizero\[orbax\]'"):
        OrbaxSource(params)


# broken folders


@pytest.fixture
def params(tmp_path) -> Path:
    return write_orbax(tmp_path / "checkpoint" / "params", leaves("pi0"))


def test_a_truncated_data_file_is_named_by_its_folder(params):
    largest = max((params / "d").iterdir(), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    _fails_to_read(params)


def test_a_missing_data_file_is_noticed(params):
    max((params / "d").iterdir(), key=lambda file: file.stat().st_size).unlink()
    _fails_to_read(params)


def _fails_to_read(params: Path) -> None:
    with pytest.raises(ValueError, match=rf"^{params}: .* is missing or truncated \(.*\); copy the folder again$") as e:
        _read_all(params)
    assert "source locations" not in str(e.value)
    assert "tensorstore_spec" not in str(e.value)


def _read_all(params: Path) -> None:
    source = OrbaxSource(params)
    for key in source.tensors:
        source.read(key)


@pytest.mark.parametrize("file", ["_METADATA", "manifest.ocdbt"])
def test_missing_and_truncated_indices_are_named(params, file):
    whole = (params / file).read_bytes()
    (params / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{params}.*truncated"):
        orbax.open_source(params.parent)
    (params / file).unlink()
    with pytest.raises(ValueError, match=f"{params / file} does not exist"):
        orbax.open_source(params.parent)


@pytest.mark.parametrize("tree", [{}, {"a": 3}, {"a": {"key_metadata": []}}, [1]])
def test_metadata_of_something_else_is_refused(params, tree):
    (params / "_METADATA").write_text(json.dumps({"tree_metadata": tree}))
    with pytest.raises(ValueError, match=r"_METADATA (lists no arrays|is not that of an orbax tree)"):
        OrbaxSource(params)


def test_a_leaf_that_metadata_lists_and_the_data_lacks_is_named(params):
    shutil.rmtree(params)
    write_orbax(params, leaves("pi0"), ocdbt=False)
    shutil.rmtree(params / "params.state_proj.bias.value")
    with pytest.raises(ValueError, match=r"state_proj/bias is missing or truncated"):
        OrbaxSource(params)


@pytest.mark.parametrize("all_stored", [True, False])
def test_a_missing_chunk_is_zeros_only_where_orbax_leaves_those_out(tmp_path, all_stored):
    flags = {"store_array_data_equal_to_fill_value": all_stored}
    params = write_orbax(tmp_path / "x", {"a": np.ones((2, 3))}, ocdbt=False, flags=flags, chunk={"a": (1, 3)})
    (params / "params.a.value" / "1.0").unlink()
    source = OrbaxSource(params)
    assert source.read("a", 0).tolist() == [1.0, 1.0, 1.0]
    if not all_stored:
        assert source.read("a", 1).tolist() == [0.0, 0.0, 0.0]
        return
    with pytest.raises(ValueError, match="a is missing or truncated"):
        source.read("a", 1)


# folders that hold something else


def test_a_folder_of_checkpoints_lists_them(tmp_path):
    for step in ("1000", "2000"):
        write_orbax(tmp_path / step / "params", {"a": np.ones(1)})
    with pytest.raises(ValueError, match=r"give one of the checkpoints in it: 1000, 2000$"):
        orbax.open_source(tmp_path)


def test_the_state_of_a_training_run_is_no_policy(tmp_path):
    state = write_orbax(tmp_path / "train_state", {"opt_state/0/count": np.ones(1), "step": np.ones(1)}, start="")
    with pytest.raises(ValueError, match=r"has train_state, .* and no params"):
        orbax.open_source(tmp_path)
    with pytest.raises(ValueError, match=r"is the state of a training run, not a policy"):
        orbax.open_source(state)


def test_a_policy_without_action_expert_is_called_by_its_name(tmp_path):
    mine = {key: x for key, x in leaves("pi0").items() if key.startswith("PaliGemma/") and "_1/" not in key}
    norms = {key: x for key, x in leaves("pi0").items() if "LayerNorm_1" in key or "Dense_1" in key}  # of the pictures
    params = write_orbax(tmp_path / "params", mine | norms)
    with pytest.raises(ValueError, match=r"has no action expert: it is a pi0-FAST or a plain PaliGemma"):
        orbax.open_source(tmp_path)
    shutil.rmtree(params)
    write_orbax(params, {"decoder/w": np.ones(2)})
    with pytest.raises(ValueError, match=r"holds decoder; expected openpi's PaliGemma"):
        orbax.open_source(tmp_path)


# plans


@pytest.mark.parametrize("kind", CONFIGS)
def test_sizes_are_inferred_and_every_parameter_of_ours_is_made(kind):
    source = Memory(leaves(kind))
    plan = orbax.plan(source, FACTS[kind])
    check(source, plan.recipes, plan.unused)
    assert plan.model == CONFIGS[kind]
    with torch.device("meta"):
        shapes = {name: x.shape for name, x in Pi0(plan.model).state_dict().items()}
    assert {name: recipe.make(source).shape for name, recipe in plan.recipes.items()} == shapes


@pytest.mark.parametrize("kind", CONFIGS)
def test_any_missing_renamed_or_transposed_leaf_is_named(kind):
    whole = leaves(kind)
    keys = [key for key in whole if kind != "lora" or "lora" in key]
    for key in keys:
        without = {name: x for name, x in whole.items() if name != key}
        turned = whole[key].T
        for broken in (without | {key + "x": turned}, without | {key: turned}):
            if key in broken and turned.shape == whole[key].shape:  # vectors and stacks of them that look alike
                continue
            with pytest.raises(ValueError, match=rf"(lacks |missing: |mis-shaped: ){key}\b"):
                fits(Memory(broken), kind)


def test_unknown_leaves_are_named():
    with pytest.raises(ValueError, match="unexpected: PaliGemma/llm/more"):
        fits(Memory(leaves("pi0") | {"PaliGemma/llm/more": np.ones(2, np.float32)}), "pi0")


def test_bfloat16_stays_and_merged_weights_are_float32(tmp_path):
    arrays = {key: array.astype(ml_dtypes.bfloat16) for key, array in leaves("lora").items()}
    source = OrbaxSource(write_orbax(tmp_path / "x", arrays))
    recipes = orbax.plan(source, FACTS["lora"]).recipes
    dtypes = {name: result_dtype(recipe, source) for name, recipe in recipes.items()}
    assert dtypes["vlm.layers.0.self_attn.q_proj.weight"] == torch.float32
    assert dtypes["vlm.norm.weight"] == dtypes["action.layers.0.mlp.up_proj.weight"] == torch.bfloat16


def test_adapters_change_the_weights_that_they_belong_to_and_no_others():
    with_adapters, without = Memory(leaves("lora")), all_recipes(PI0, {})
    recipes = orbax.plan(with_adapters, FACTS["lora"]).recipes
    without = {name: r for name, r in without.items() if not name.startswith("heads.")}  # the direction of time
    changed = {
        name
        for name in without
        if not torch.equal(recipes[name].make(with_adapters), without[name].make(with_adapters))
    }
    assert changed == {
        f"{expert}.layers.{i}.{part}.weight"
        for i in range(2)
        for expert, parts in (("vlm", ("self_attn", "mlp")), ("action", ("self_attn",)))
        for part in (
            *(f"self_attn.{x}_proj" for x in "qkvo"),
            *(f"mlp.{x}_proj" for x in ("gate", "up", "down") if "mlp" in parts),
        )
    }


def test_norms_of_pi05_come_from_the_linear_layers_that_make_them():
    arrays = leaves("pi0.5")
    source = Memory(arrays)
    recipes = orbax.plan(source, FACTS["pi0.5"]).recipes
    for ours, theirs in (
        ("input_layernorm", "pre_attention_norm_1"),
        ("post_attention_layernorm", "pre_ffw_norm_1"),
    ):
        for i in range(2):
            kernel, bias = (arrays[f"PaliGemma/llm/layers/{theirs}/Dense_0/{x}"][i] for x in ("kernel", "bias"))
            assert np.array_equal(recipes[f"action.layers.{i}.{ours}.dense.weight"].make(source).numpy(), kernel.T)
            assert np.array_equal(recipes[f"action.layers.{i}.{ours}.dense.bias"].make(source).numpy(), bias)
    final = arrays["PaliGemma/llm/final_norm_1/Dense_0/kernel"]
    assert np.array_equal(recipes["action.norm.dense.weight"].make(source).numpy(), final.T)
    time = arrays["time_mlp_out/kernel"]
    assert np.array_equal(recipes["heads.time_mlp_out.weight"].make(source).numpy(), time.T)


# facts


def test_what_every_policy_of_openpi_has_in_common_is_known():
    source = Memory(leaves("pi0"))
    said = orbax.facts(Path("memory"), source)
    assert (said.normalization, said.prompt_format, said.prompt_length, said.resize) == ("z-score", "pi0", 48, "pad")
    assert (said.horizon, said.delta_actions, said.vision_heads) == (None, None, 3)
    said = orbax.facts(Path("memory"), Memory(leaves("pi0.5")))
    assert (said.normalization, said.prompt_format, said.prompt_length) == ("quantile", None, 200)


def test_horizon_alpha_and_one_of_several_statistics_are_asked_for(params):
    group = {"mean": [0.0], "std": [1.0], "q01": None}
    for name in ("droid", "team/arm"):
        file = params.parent / "assets" / name / "norm_stats.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"norm_stats": {"state": group, "actions": group}}))
    source = orbax.open_source(params)
    assert source is not None
    said = orbax.facts(params, source)
    assert said.stats is None
    needs = orbax.needs(source, said)
    assert set(needs) == {"horizon", "stats"}
    assert "droid/norm_stats.json, " in needs["stats"]
    assert "team/arm/norm_stats.json" in needs["stats"]
    (params.parent / "assets/droid/norm_stats.json").unlink()
    stats = orbax.facts(params, source).stats
    assert stats is not None
    assert stats.state.mean.tolist() == [0.0]
    assert "stats" not in orbax.needs(source, replace(said, stats=stats))
    assert set(orbax.needs(Memory(leaves("lora")), Facts())) == {"horizon", "lora_alpha"}


def test_an_alpha_without_adapters_is_refused():
    with pytest.raises(ValueError, match=r"--lora-alpha is 6\.0, but memory/params has no attention adapters"):
        orbax.plan(Memory(leaves("pi0")), FACTS["lora"])


def test_a_path_with_dots_in_it_will_do(tmp_path, monkeypatch):
    write_orbax(tmp_path / "params", {"a": np.arange(2.0, dtype=np.float32)})
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    assert OrbaxSource(Path("../params")).read("a").tolist() == [0.0, 1.0]
