"""open-pi-zero's files: what is folded into the weights, what may be absent, and what is refused."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pizero.model.config import GemmaConfig, Pi0Config, SiglipConfig
from pizero.model.pi0 import Pi0
from pizero.types import Observation
from pizero.weights.facts import Facts
from pizero.weights.importer import load_foreign, read_foreign
from pizero.weights.open_pi_zero import ACTION, COMPILED, STATE, VLM, open_source, their_key
from pizero.weights.recipe import result_dtype

GOLDEN = Path(__file__).parents[2] / "parity" / "golden"
FILE = GOLDEN / "open_pi_zero_rope100" / "step19296.pt"
SAID = Facts(vision_heads=4, horizon=4, action_rope_base=100.0, time_max_period=100.0)
VISION = "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj."


@pytest.fixture
def state() -> dict[str, Tensor]:
    return torch.load(FILE, weights_only=True)["model"]


@pytest.fixture
def tiny(randomise) -> tuple[Pi0Config, dict[str, Tensor]]:
    """A policy whose expert is 24 wide, the square root of which is no power of two, and its file."""
    gemma = {"depth": 2, "num_heads": 4, "num_kv_heads": 1, "head_dim": 6}
    config = Pi0Config(
        vision=SiglipConfig(width=16, depth=2, mlp_dim=20, num_heads=4, image_size=12, patch_size=6),
        vlm=GemmaConfig(width=32, mlp_dim=40, **gemma),
        action=GemmaConfig(width=24, mlp_dim=28, rope_base=100.0, **gemma),
        vocab_size=17,
        state_dim=6,
        action_dim=5,
        horizon=4,
        time_min_period=2 * math.pi,
        time_max_period=2 * math.pi * 100,
        positions="restart",
        attention_softcap=50.0,
        euler_grid="open-pi-zero",
    )
    model = Pi0(config)
    randomise(model)
    tensors = {their_key(name): tensor.clone() for name, tensor in model.state_dict().items()}
    return config, tensors | {key.replace(ACTION, STATE): x.clone() for key, x in tensors.items() if ACTION in key}


def write(state: dict[str, Tensor], path: Path) -> Path:
    torch.save({"model": state, "cnt_update": 1}, path / "x.pt")
    return path / "x.pt"


def weights(path: Path, said: Facts = SAID) -> dict[str, Tensor]:
    """Ours, in the type of our file."""
    foreign = read_foreign(path, {"the test": said})
    recipes, source = foreign.plan.recipes, foreign.source
    return {name: recipe.make(source).to(result_dtype(recipe, source)) for name, recipe in recipes.items()}


def equal(ours: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return ours.keys() == other.keys() and all(torch.equal(ours[name], other[name]) for name in ours)


def velocity(path: Path) -> Tensor:
    model = load_foreign(read_foreign(path, {"the test": SAID})).requires_grad_(False)
    draw = torch.Generator().manual_seed(0)
    c = model.config
    side = c.vision.image_size
    observation = Observation(
        images=torch.rand(2, 1, 3, side, side, generator=draw) * 2 - 1,
        prompt=torch.randint(0, c.vocab_size, (2, 5), generator=draw),
        state=torch.randn(2, c.state_dim, generator=draw),
    )
    x_t = torch.randn(2, c.horizon, c.action_dim, generator=draw)
    return model.velocity(model.prefill(observation), x_t, torch.tensor([0.25, 0.75]))


def test_only_files_of_its_trainer_are_taken(tmp_path, state):
    assert open_source(FILE) is not None
    assert open_source(FILE.parent) is None
    assert open_source(write({"layers.0.weight": torch.zeros(2)}, tmp_path)) is None
    torch.save(state, tmp_path / "bare.pt")
    assert open_source(tmp_path / "bare.pt") is None
    torch.save({"model": torch.zeros(2)}, tmp_path / "tensor.pt")
    assert open_source(tmp_path / "tensor.pt") is None


def test_sizes_are_inferred_at_a_width_whose_root_is_no_power_of_two(tiny, tmp_path):
    config, tensors = tiny
    assert read_foreign(write(tensors, tmp_path), {"the test": SAID}).plan.model == config


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_of_the_expert_are_scaled_and_time_comes_last(tiny, tmp_path, dtype):
    _, tensors = tiny
    tensors = {key: x.to(dtype) for key, x in tensors.items()}
    ours = weights(write(tensors, tmp_path))
    root = math.sqrt(24)
    for name, key in (("state_proj", "proprio_encoder"), ("action_time_mlp_out", "action_encoder.linear_3")):
        for part in ("weight", "bias"):
            expected = tensors[f"{key}.{part}"].double() * root
            assert ours[f"heads.{name}.{part}"].dtype == torch.float32  # bfloat16 could not hold it
            assert torch.equal(ours[f"heads.{name}.{part}"], expected.float())
    given = tensors["action_encoder.linear_2.weight"]
    assert torch.equal(ours["heads.action_time_mlp_in.weight"], torch.cat([given[:, 24:], given[:, :24]], 1))
    changed = ("state_proj", "action_time_mlp_out", "action_time_mlp_in.weight")
    for name, tensor in ours.items():
        if not any(part in name for part in changed):
            assert torch.equal(tensor, tensors[their_key(name)]), name
            assert tensor.dtype == dtype


def test_a_root_that_is_a_power_of_two_keeps_bfloat16_exact(tmp_path, state):
    half = {key: x.bfloat16() for key, x in state.items()}
    ours = weights(write(half, tmp_path))
    assert {tensor.dtype for tensor in ours.values()} == {torch.bfloat16}
    assert torch.equal(ours["heads.state_proj.weight"], half["proprio_encoder.weight"] * 8)
    assert velocity(tmp_path / "x.pt").isfinite().all()


def test_what_torch_compile_puts_before_every_key_is_taken_off(tmp_path, state):
    compiled = write({COMPILED + key: x for key, x in state.items()}, tmp_path)
    assert equal(weights(compiled), weights(FILE))


def test_a_prefix_of_some_keys_only_is_unexpected(tmp_path, state):
    state[COMPILED + "action_decoder.weight"] = state.pop("action_decoder.weight")
    with pytest.raises(ValueError, match=r"missing: action_decoder\.weight; unexpected: _orig_mod\.action_decoder\."):
        weights(write(state, tmp_path))


def test_merged_adapters_give_the_velocity_of_the_unmerged_layers(tmp_path, state):
    """Unmerged: x W + (x A) B, in float64, on all layers that open-pi-zero adapts."""
    draw = torch.Generator().manual_seed(0)
    adapted = [
        key.removesuffix("weight")
        for key, x in state.items()
        if x.ndim == 2 and "layers" in key and (VLM in key or "vision" in key)
    ]
    assert len(adapted) == 2 * 6 + 3 * 7
    plain = dict(state)
    for i, stem in enumerate(adapted):
        out, inputs = state[stem + "weight"].shape
        a = torch.randn(2 + i % 3, inputs, generator=draw) / math.sqrt(inputs)
        b = torch.randn(out, 2 + i % 3, generator=draw)
        state |= {stem + "lora_A": a, stem + "lora_B": b}
        plain[stem + "weight"] = (plain[stem + "weight"].double() + b.double() @ a.double()).float()
    path = write(state, tmp_path)
    ours = weights(path)
    for name in ("vlm.layers.1.mlp.down_proj", "vision.layers.0.q_proj"):
        stem = their_key(name + ".weight").removesuffix("weight")
        x = torch.randn(7, ours[name + ".weight"].shape[1], dtype=torch.float64, generator=draw)
        w, a, b = (state[stem + part].double() for part in ("weight", "lora_A", "lora_B"))
        assert (x @ ours[name + ".weight"].double().T - (x @ w.T + x @ a.T @ b.T)).abs().max() < 1e-5
    merged = velocity(path)
    (tmp_path / "plain").mkdir()
    assert (merged - velocity(write(plain, tmp_path / "plain"))).abs().max() < 1e-5 * merged.abs().max()
    assert (merged - velocity(FILE)).abs().max() > 1e-3 * merged.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merged_weight_is_float32(tmp_path, state, dtype):
    state |= {VISION + "lora_A": torch.randn(2, 32), VISION + "lora_B": torch.randn(32, 2)}
    ours = weights(write({key: x.to(dtype) for key, x in state.items()}, tmp_path))
    assert ours["vision.layers.0.q_proj.weight"].dtype == torch.float32
    assert ours["vision.layers.0.k_proj.weight"].dtype == dtype


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("lora_B", None, f"missing: {VISION}lora_B"),
        ("lora_A", None, f"unexpected: {VISION}lora_B"),
        ("lora_B", torch.zeros(31, 2), rf"mis-shaped: {VISION}lora_B is \(31, 2\), the model needs \(32, 2\)"),
    ],
)
def test_adapters_that_do_not_fit_are_named(tmp_path, state, part, change, words):
    state |= {VISION + "lora_A": torch.randn(2, 32), VISION + "lora_B": torch.randn(32, 2)}
    if change is None:
        del state[VISION + part]
    else:
        state[VISION + part] = change
    with pytest.raises(ValueError, match=words):
        weights(write(state, tmp_path))


@pytest.mark.parametrize("case", ["rope100", "adaln_zero"])
def test_state_weights_that_differ_from_those_of_the_actions_are_refused(tmp_path, case):
    state = torch.load(GOLDEN / f"open_pi_zero_{case}" / "step19296.pt", weights_only=True)["model"]
    key = next(key for key in state if key.endswith(STATE + "layers.1.mlp.up_proj.weight"))
    state[key] = state[key] + torch.eye(*state[key].shape)  # no change in place: in the file they share memory
    with pytest.raises(ValueError, match=r"mixtures\.action\.layers\.1\.mlp\.up_proj\.weight and .*proprio.* differ; "):
        weights(write(state, tmp_path))


def test_without_a_twin_the_actions_weights_are_taken_alone(tmp_path, state):
    alone = {key: x for key, x in state.items() if not key.startswith(STATE)}
    assert equal(weights(write(alone, tmp_path)), weights(FILE))
    del state[STATE + "norm.weight"]
    with pytest.raises(ValueError, match=r"missing: joint_model\.mixtures\.proprio\.norm\.weight"):
        weights(write(state, tmp_path))


LAST = (
    *(f"layers.2.mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
    "layers.2.post_attention_layernorm.weight",
    "layers.2.self_attn.o_proj.weight",
)


def test_only_what_nothing_is_computed_from_may_be_absent(tmp_path, state):
    assert VLM + "norm.weight" not in state
    expected = velocity(FILE)
    for key in LAST:
        del state[VLM + key]
    path = write(state, tmp_path)
    ours = weights(path)
    for key in ("norm.weight", *LAST):
        assert not ours[f"vlm.{key}"].any()
    assert torch.equal(velocity(path), expected)
    for key in list(state):
        if re_last(key):
            rest = {name: x for name, x in state.items() if name != key}
            with pytest.raises(ValueError, match="missing: " + key.replace(".", r"\.")):
                weights(write(rest, tmp_path))


def re_last(key: str) -> bool:
    """Parts of the last layer that are used, and parts of the layer before."""
    return key.startswith((VLM + "layers.2.", VLM + "layers.1.mlp.", VLM + "layers.1.self_attn.o_proj."))


def test_absent_parts_and_their_type(tmp_path, state):
    ours = weights(write({key: x.bfloat16() for key, x in state.items()}, tmp_path))
    assert ours["vlm.norm.weight"].dtype == torch.bfloat16


def test_more_tokens_than_paligemma_has_are_cut_off(tmp_path, state):
    state["embed_tokens.weight"] = torch.randn(257_160, 72)
    foreign = read_foreign(write(state, tmp_path), {"the test": SAID})
    assert foreign.plan.model.vocab_size == 257_152
    made = foreign.plan.recipes["embed_tokens.weight"].make(foreign.source)
    assert torch.equal(made, state["embed_tokens.weight"][:257_152])


def test_buffers_and_the_tied_head_say_nothing(tmp_path, state):
    state |= {
        "lm_head.weight": torch.zeros(304, 72),
        VLM + "layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8),
        "vision_tower.vision_model.embeddings.position_ids": torch.arange(16)[None],
    }
    assert equal(weights(write(state, tmp_path)), weights(FILE))


@pytest.mark.parametrize("name", ["horizon", "action_rope_base", "time_max_period", "vision_heads"])
def test_what_the_file_does_not_hold_is_asked_for(name):
    flag = "--" + name.replace("_", "-")
    with pytest.raises(ValueError, match=rf"give {flag} \([^)]*\)$"):
        read_foreign(FILE, {"the test": replace(SAID, **{name: None})})


def test_adaptive_norms_are_told_by_their_tensors(tmp_path):
    path = GOLDEN / "open_pi_zero_adaln_zero" / "step19296.pt"
    config = read_foreign(path, {"the test": SAID}).plan.model
    assert (config.time_conditioning, config.time_dim) == ("adaln-zero", 24)
    state = torch.load(path, weights_only=True)["model"]
    without = {key: x for key, x in state.items() if "to_adaln_zero_gamma" not in key}
    assert read_foreign(write(without, tmp_path), {"the test": SAID}).plan.model.time_conditioning == "adaln"
    assert read_foreign(FILE, {"the test": SAID}).plan.model.time_conditioning == "input"
