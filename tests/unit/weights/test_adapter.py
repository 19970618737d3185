import copy
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pizero.data.prompt import Tokenizer, train_tokenizer
from pizero.data.stats import DatasetStats, Stats
from pizero.data.transform import Transform, TransformConfig
from pizero.embodiment import Embodiment
from pizero.model.config import Pi0Config
from pizero.model.lora import add_lora, merge_lora
from pizero.model.pi0 import Pi0
from pizero.types import Observation
from pizero.weights.adapter import load_adapter, merge_adapter, save_adapter
from pizero.weights.adapter_source import AdapterConfig, file_sha256, is_adapter, open_adapter, read_adapter_config
from pizero.weights.checkpoint import (
    is_checkpoint,
    load_checkpoint,
    load_configs,
    load_weights,
    save_checkpoint,
    save_tensors,
)
from pizero.weights.peft import PREFIX

ROBOT = Embodiment(
    name="arm",
    cameras=("left", "front", "wrist"),
    state=("x", "y", "gripper"),
    actions=("dx", "dy"),
    control_rate_hz=10.0,
    action_low=(-1.0, -2.0),
    action_high=(1.0, 2.0),
)
NAMES = ("vision.layers.1.out_proj", "vlm.layers.0.mlp.up_proj", "action.layers.1.self_attn.o_proj")


@pytest.fixture(scope="module")
def config(tiny_config: Pi0Config) -> Pi0Config:
    return replace(tiny_config, vocab_size=300)  # a tokenizer needs its 260 special and byte tokens


@pytest.fixture(scope="module")
def transform(config: Pi0Config) -> Transform:
    rng = np.random.default_rng(0)
    stats = DatasetStats(Stats.of(rng.normal(size=(50, 3))), Stats.of(rng.normal(size=(50, 2))))
    sizes = TransformConfig(
        ROBOT,
        image_size=config.vision.image_size,
        prompt_length=12,
        state_dim=config.state_dim,
        action_dim=config.action_dim,
        horizon=config.horizon,
    )
    return Transform(sizes, stats, Tokenizer(train_tokenizer(["open it", "close it"], 300)))


@pytest.fixture(scope="module")
def plain(config: Pi0Config, randomise: Callable[..., None]) -> Pi0:
    model = Pi0(config)
    randomise(model)
    return model.requires_grad_(False).eval()


@pytest.fixture
def base(tmp_path: Path, plain: Pi0, config: Pi0Config, transform: Transform) -> Path:
    save_checkpoint(tmp_path / "base", partial(save_tensors, tensors=plain.state_dict()), config, transform)
    return tmp_path / "base"


@pytest.fixture(scope="module")
def adapted(plain: Pi0) -> Pi0:
    """With adapters and heads other than the base's."""
    return adapt(plain)


def adapt(plain: Pi0) -> Pi0:
    model, generator = copy.deepcopy(plain), torch.Generator().manual_seed(9)
    add_lora(model, NAMES, rank=3, alpha=7.0, dropout=0.0, generator=generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name or name.startswith("heads."):
                parameter.normal_(0, 0.3, generator=generator)
    return model.eval()


def trained(model: Pi0) -> dict[str, torch.Tensor]:
    return {n: p.detach() for n, p in model.named_parameters() if ".lora_" in n or n.startswith("heads.")}


def described(base: Path, **changes: object) -> AdapterConfig:
    return replace(AdapterConfig(base, file_sha256(base / "model.safetensors"), 3, 7.0, 0.0, NAMES), **changes)


@pytest.fixture
def adapter(tmp_path: Path, base: Path, adapted: Pi0, config: Pi0Config, transform: Transform) -> Path:
    save_adapter(tmp_path / "adapter", trained(adapted), described(base), config, transform)
    return tmp_path / "adapter"


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def velocity(model: Pi0, observation: Observation) -> torch.Tensor:
    x_t = torch.randn(3, model.config.horizon, model.config.action_dim, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model.velocity(model.prefill(observation), x_t, torch.tensor([0.1, 0.5, 0.9]))


def test_a_loaded_adapter_gives_what_the_trained_model_gave(adapter: Path, adapted: Pi0, ragged: Observation) -> None:
    model = load_checkpoint(adapter).model
    before = velocity(adapted, ragged)
    error = (velocity(model, ragged) - before).abs().max() / before.abs().max()
    assert error < 1e-5
    assert type(model.get_submodule(NAMES[0])) is nn.Linear


def test_its_weights_are_bit_for_bit_those_of_a_merge_in_memory(adapter: Path, adapted: Pi0, plain: Pi0) -> None:
    merged = copy.deepcopy(adapted)
    merge_lora(merged)
    found = load_checkpoint(adapter).model.state_dict()
    assert found.keys() == plain.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in merged.state_dict().items())
    changed = {name for name, tensor in plain.state_dict().items() if not torch.equal(tensor, found[name])}
    heads = {name for name in found if name.startswith("heads.")}
    assert changed == {f"{name}.weight" for name in NAMES} | heads


def test_an_adapter_folder_is_a_checkpoint_without_its_weights(adapter: Path, config: Pi0Config) -> None:
    assert sorted(file.name for file in adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
        "stats.json",
        "tokenizer.model",
    ]
    assert is_checkpoint(adapter)
    assert is_adapter(adapter)
    assert load_configs(adapter)[0] == config


def test_its_files_are_named_as_peft_names_them(adapter: Path, adapted: Pi0, base: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    heads = [name for name, _ in adapted.named_parameters() if name.startswith("heads.")]
    factors = [f"{name}.lora_{x}.weight" for name in NAMES for x in "AB"]
    assert set(tensors) == {f"base_model.model.{name}" for name in [*factors, *heads]}
    assert tensors[f"base_model.model.{NAMES[1]}.lora_A.weight"].shape == (3, 32)
    assert tensors[f"base_model.model.{NAMES[1]}.lora_B.weight"].shape == (40, 3)
    fields = json.loads((adapter / "adapter_config.json").read_text())
    assert (fields["peft_type"], fields["r"], fields["lora_alpha"], fields["lora_dropout"]) == ("LORA", 3, 7.0, 0.0)
    assert fields["target_modules"] == list(NAMES)
    assert set(fields["modules_to_save"]) == {name.rpartition(".")[0] for name in heads}
    assert fields["base_model_name_or_path"] == str(base)
    assert fields["pizero_base_sha256"] == hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    assert read_adapter_config(adapter) == described(base)


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments")  # our own fields
def test_peft_itself_gives_the_same(adapter: Path, plain: Pi0, adapted: Pi0, ragged: Observation) -> None:
    peft = pytest.importorskip("peft")
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(plain), str(adapter)).eval()
    torch.testing.assert_close(velocity(theirs.get_base_model(), ragged), velocity(adapted, ragged))


def test_a_base_of_bfloat16_is_merged_in_float32(
    tmp_path: Path, plain: Pi0, config: Pi0Config, transform: Transform
) -> None:
    half = {name: tensor.bfloat16() for name, tensor in plain.state_dict().items()}
    save_checkpoint(tmp_path / "base", partial(save_tensors, tensors=half), config, transform)
    rounded = copy.deepcopy(plain)
    rounded.load_state_dict(half)
    model = adapt(rounded)
    save_adapter(tmp_path / "adapter", trained(model), described(tmp_path / "base"), config, transform)
    merge_lora(model)
    found = load_checkpoint(tmp_path / "adapter").model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
    small = load_checkpoint(tmp_path / "adapter", dtype=torch.bfloat16).model
    assert small.vlm.layers[0].mlp.up_proj.weight.dtype is torch.bfloat16


def test_adapters_of_4_bits_are_added_to_what_4_bits_leave(
    tmp_path: Path, base: Path, plain: Pi0, config: Pi0Config, transform: Transform
) -> None:
    pytest.importorskip("bitsandbytes")
    from pizero.model.qlora import add_qlora

    model, generator = copy.deepcopy(plain), torch.Generator().manual_seed(9)
    packed = (*NAMES, "vlm.layers.1.mlp.up_proj")
    add_qlora(model, packed, NAMES, torch.bfloat16, 3, 7.0, 0.0, generator)
    for name in NAMES:
        nn.init.normal_(model.get_parameter(f"{name}.lora_B.weight"), 0, 0.3, generator=generator)
    save_adapter(tmp_path / "adapter", trained(model), described(base, nf4_modules=packed), config, transform)
    merge_lora(model)
    found = load_checkpoint(tmp_path / "adapter").model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
    assert not torch.equal(found[f"{packed[-1]}.weight"], plain.state_dict()[f"{packed[-1]}.weight"])


def test_a_run_gets_back_what_it_saved(adapter: Path, base: Path, adapted: Pi0) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in trained(adapted).items()}
    tensors = load_adapter(adapter, described(base), shapes, "cpu")
    assert tensors.keys() == shapes.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in trained(adapted).items())
    with pytest.raises(ValueError, match=r"sha256 [0-9a-f]{64}, init has other; give as init the weights"):
        load_adapter(adapter, described(base, base_sha256="other"), shapes, "cpu")
    with pytest.raises(ValueError, match=r"missing: base_model.model.more.weight"):
        load_adapter(adapter, described(base), shapes | {"more.weight": (1,)}, "cpu")


def test_another_base_is_refused_with_both_hashes(adapter: Path, base: Path) -> None:
    right = file_sha256(base / "model.safetensors")
    tensors = load_file(base / "model.safetensors")
    tensors["vlm.norm.weight"][0] += 1
    save_file(tensors, base / "model.safetensors")
    wrong = file_sha256(base / "model.safetensors")
    with pytest.raises(ValueError, match=rf"sha256 {right}, and .*model.safetensors has {wrong}; .* --base FOLDER"):
        load_checkpoint(adapter)


def test_a_base_that_has_moved_is_asked_for(adapter: Path, base: Path, adapted: Pi0, ragged: Observation) -> None:
    moved = base.rename(base.with_name("moved"))
    with pytest.raises(ValueError, match=r"adapters of the weights in .*base/model.safetensors, which does not exist"):
        load_checkpoint(adapter)
    model = load_checkpoint(adapter, base=moved).model
    torch.testing.assert_close(velocity(model, ragged), velocity(adapted, ragged), atol=1e-5, rtol=1e-4)


def test_a_base_is_of_no_use_to_whole_weights(base: Path, config: Pi0Config) -> None:
    with pytest.raises(ValueError, match=r"holds all its weights itself and has no base"):
        load_weights(base, config, "cpu", base=base)


@pytest.mark.parametrize("field", ["r", "lora_alpha", "pizero_base_sha256", "pizero_nf4_modules", "target_modules"])
def test_a_field_of_another_type_is_named(adapter: Path, field: str) -> None:
    edit(adapter / "adapter_config.json", **{field: {}})
    with pytest.raises(ValueError, match=rf"adapter_config.json: {field} is {{}}; copy the adapter again"):
        read_adapter_config(adapter)


def test_adapters_that_do_not_fit_are_refused(adapter: Path, base: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({key: x for key, x in tensors.items() if not key.endswith(f"{NAMES[0]}.lora_B.weight")}, file)
    with pytest.raises(ValueError, match="has no other factor"):
        load_checkpoint(adapter)
    save_file(tensors | {f"{PREFIX}vlm.layers.7.mlp.up_proj.lora_A.weight": torch.ones(3, 32)}, file)
    with pytest.raises(ValueError, match=r"does not fit .*base: no weight of the base belongs to .*layers.7"):
        load_checkpoint(adapter)
    save_file(tensors, file)
    edit(adapter / "adapter_config.json", pizero_nf4_modules=["vlm.layers.7.mlp.up_proj"])
    with pytest.raises(ValueError, match=r"has no vlm.layers.7.mlp.up_proj.weight, which pizero_nf4_modules"):
        open_adapter(adapter)


def test_merging_writes_a_whole_checkpoint(tmp_path: Path, adapter: Path, base: Path, transform: Transform) -> None:
    merge_adapter(adapter, tmp_path / "merged")
    expected = load_checkpoint(adapter)
    shutil.rmtree(base)
    shutil.rmtree(adapter)
    found = load_checkpoint(tmp_path / "merged")
    assert found.transform.config == transform.config
    weights = found.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.model.state_dict().items())
    assert sorted(file.name for file in (tmp_path / "merged").iterdir()) == [
        "config.json",
        "model.safetensors",
        "stats.json",
        "tokenizer.model",
    ]


def test_merging_can_round_all_but_the_heads(tmp_path: Path, adapter: Path, base: Path) -> None:
    moved = base.rename(tmp_path / "moved")
    merge_adapter(adapter, tmp_path / "merged", moved, torch.bfloat16)
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    exact = load_checkpoint(adapter, base=moved).model.state_dict()
    for name, tensor in exact.items():
        head = name.startswith("heads.")
        assert torch.equal(tensors[name], tensor if head else tensor.bfloat16())


def test_merging_refuses_what_it_cannot_do(tmp_path: Path, adapter: Path, base: Path) -> None:
    with pytest.raises(ValueError, match="base exists already; remove it or choose another folder"):
        merge_adapter(adapter, base)
    with pytest.raises(ValueError, match="holds all its weights itself; there is nothing to merge"):
        merge_adapter(base, tmp_path / "merged")
    base.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"does not exist; say where they are now: pizero merge .* DST --base FOLDER"):
        merge_adapter(adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_the_command_merges(tmp_path: Path, adapter: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pizero.command.merge import main

    moved = base.rename(tmp_path / "moved")
    assert main([str(adapter), str(tmp_path / "merged"), "--base", str(moved)]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'merged'}\n"
    assert load_file(tmp_path / "merged" / "model.safetensors").keys() == load_file(moved / "model.safetensors").keys()
