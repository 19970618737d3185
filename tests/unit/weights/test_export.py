"""Export gives back, bit for bit, what an import read; what a format cannot say is refused by name."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pizero.data.prompt import Tokenizer, train_tokenizer
from pizero.data.stats import DatasetStats, Stats
from pizero.data.transform import Transform, TransformConfig
from pizero.embodiment import Embodiment
from pizero.model.config import Pi0Config, SiglipConfig
from pizero.model.pi0 import Pi0
from pizero.weights.checkpoint import load_configs, save_checkpoint, save_tensors
from pizero.weights.export import export_openpi, export_safetensors, variant
from pizero.weights.export_lerobot import export_lerobot
from pizero.weights.facts import Facts
from pizero.weights.importer import import_checkpoint
from pizero.weights.openpi import EMBEDDING, TIED

GOLDEN = Path(__file__).parents[2] / "parity" / "golden"
CONVOLUTIONS = SiglipConfig(width=16, depth=1, mlp_dim=8, num_heads=2, image_size=8, patch_size=4, stem="convolutions")
HEADS = {"the user": Facts(vision_heads=4)}
WEIGHTS = "model.safetensors"
NEVER_USED = (TIED, "paligemma_with_expert.gemma_expert.lm_head.weight")
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
TEXTS = ("pick up the red block", "open a drawer")


def assert_same_bits(theirs: dict[str, torch.Tensor], exported: dict[str, torch.Tensor], unused: set[str]) -> None:
    """Negative zeros and the types are compared too; of the `unused` heads only types and shapes."""
    assert theirs.keys() == exported.keys()
    for key, tensor in theirs.items():
        assert (tensor.dtype, tensor.shape) == (exported[key].dtype, exported[key].shape), key
        bits = BITS[tensor.dtype]
        assert key in unused or torch.equal(tensor.view(bits), exported[key].view(bits)), key


def assert_same_checkpoint(a: Path, b: Path) -> None:
    names = {file.name for file in a.iterdir()}
    assert names == {file.name for file in b.iterdir()}
    for name in names - {WEIGHTS}:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    ours, again = load_file(a / WEIGHTS), load_file(b / WEIGHTS)
    assert all(ours[name].dtype == again[name].dtype and torch.equal(ours[name], again[name]) for name in ours)


LATER_THAN_0_6_1 = {
    "use_visual_memory",
    "use_proprioceptive_memory",
    "memory_frames",
    "memory_stride",
    "memory_temporal_attention_every",
    "rtc_training_max_delay",
}
"""Fields of PI05Config in the golden case, which lerobot 0.6.1 refuses to read."""


def lerobot_folder(case: str, dtype: torch.dtype, path: Path) -> Path:
    """A golden case, with everything but the norms in `dtype`, as lerobot's bfloat16 has it."""
    shutil.copytree(GOLDEN / case, path)
    tensors = load_file(path / WEIGHTS)
    cast = {key: x if "norm" in key else x.to(dtype) for key, x in tensors.items()}
    save_file(cast, path / WEIGHTS)
    config = json.loads((path / "config.json").read_text())
    config["dtype"] = str(dtype).removeprefix("torch.")
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ["lerobot_pi0_base", "lerobot_pi05_base"])
def test_lerobot_comes_out_as_it_went_in(tmp_path, case, dtype):
    theirs = lerobot_folder(case, dtype, tmp_path / "theirs")
    import_checkpoint(theirs, tmp_path / "ours", HEADS)
    export_lerobot(tmp_path / "ours", tmp_path / "out")
    heads = {f"model.{key}" for key in NEVER_USED}
    assert_same_bits(load_file(theirs / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS), heads)
    config = json.loads((theirs / "config.json").read_text())
    released = {key: value for key, value in config.items() if key not in LATER_THAN_0_6_1}
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == released | {
        "push_to_hub": False,
        "n_action_steps": 6,
    } | pictures_of_the_models_size(theirs)
    for file in theirs.glob("policy_*.safetensors"):
        mine, out = load_file(file), load_file(tmp_path / "out" / file.name)
        assert_same_bits(mine, out, set())
    assert not (tmp_path / "out.part").exists()
    import_checkpoint(tmp_path / "out", tmp_path / "again", HEADS)
    assert_same_checkpoint(tmp_path / "ours", tmp_path / "again")


def pictures_of_the_models_size(folder: Path) -> dict[str, Any]:
    features = json.loads((folder / "config.json").read_text())["input_features"]
    for key, feature in features.items():
        feature["shape"] = [3, 56, 56] if "images" in key else feature["shape"]
    return {"input_features": features}


def openpi_folder(pi05: bool, dtype: torch.dtype, path: Path) -> Path:
    """openpi's golden pi0; its pi0.5 from lerobot's, which has the same tensors under keys with model. in front."""
    tensors = load_file(GOLDEN / "openpi_pi0_base" / WEIGHTS)
    if pi05:
        theirs = load_file(GOLDEN / "lerobot_pi05_base" / WEIGHTS)
        tensors = {key.removeprefix("model."): value for key, value in theirs.items()}
        tensors[TIED] = tensors.pop(EMBEDDING)
    assets = path / "assets" / "toy"
    assets.mkdir(parents=True)
    save_file({key: x.to(dtype) for key, x in tensors.items()}, path / WEIGHTS)
    config = {"action_dim": 32, "action_horizon": 6, "precision": str(dtype).removeprefix("torch.")}
    variants = {"paligemma_variant": "custom", "action_expert_variant": "custom"}
    (path / "config.json").write_text(json.dumps(config | variants))
    rng = np.random.default_rng(5)
    stats = {
        key: {name: rng.uniform(1, 2, size).tolist() for name in ("mean", "std", "q01", "q99")}
        for key, size in (("state", 8), ("actions", 7))
    }
    (assets / "norm_stats.json").write_text(json.dumps({"norm_stats": stats}))
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pi05", [False, True])
def test_openpi_comes_out_as_it_went_in(tmp_path, pi05, dtype):
    theirs = openpi_folder(pi05, dtype, tmp_path / "theirs")
    robot = replace(ROBOT, state=tuple("abcdefgh"), actions=tuple("tuvwxyz"), action_low=(), action_high=())
    said = Facts(
        robot=robot,
        prompt_format="pi05" if pi05 else None,
        delta_actions=(),
        joint_units="robot",
        tokenizer=GOLDEN / "lerobot_pi0_base" / "tokenizer" / "tokenizer.json",
        vision_heads=4,
    )
    import_checkpoint(theirs, tmp_path / "ours", {"the user": said})
    remarks = export_openpi(tmp_path / "ours", tmp_path / "out")
    assert_same_bits(load_file(theirs / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS), set(NEVER_USED[1:]))
    for name in ("config.json", "assets/toy/norm_stats.json"):
        mine, out = (json.loads((path / name).read_text()) for path in (theirs, tmp_path / "out"))
        assert mine == out
    assert any("pi05=True" in line if pi05 else "pi05=False" in line for line in remarks)
    import_checkpoint(tmp_path / "out", tmp_path / "again", {"the user": said})
    assert_same_checkpoint(tmp_path / "ours", tmp_path / "again")


def test_openpis_heads_are_all_there_under_the_names_that_its_strict_loading_needs(tmp_path):
    """openpi's model ties the embedding to lm_head: one name is enough, and the expert's head has no other."""
    import_checkpoint(GOLDEN / "lerobot_pi0_base", tmp_path / "ours", HEADS)
    config = tmp_path / "ours" / "config.json"
    data = json.loads(config.read_text())
    data["transform"] |= {"normalization": "z-score", "prompt_format": "pi0", "resize": "pad"}
    config.write_text(json.dumps(data))
    remarks = export_openpi(tmp_path / "ours", tmp_path / "out")
    assert any("'lerobot'" in line for line in remarks)  # the rounding of its Euler steps
    with safe_open(tmp_path / "out" / WEIGHTS, "pt") as tensors:
        assert set(NEVER_USED) <= set(tensors.keys())
        assert EMBEDDING not in tensors.keys()  # noqa: SIM118 (not a dict)
        assert tensors.metadata()[EMBEDDING] == TIED
        assert tensors.get_slice(NEVER_USED[1]).get_shape() == [304, 64]


ROBOT = Embodiment(
    name="toy",
    cameras=("front", "wrist"),
    state=("x", "y", "z"),
    actions=("arm.x", "arm.y", "gripper"),
    control_rate_hz=10.0,
    action_low=(-1.0, -1.0, -1.0),
    action_high=(1.0, 1.0, 1.0),
    gripper_action="1 closes",
)


@pytest.fixture
def trained(tmp_path, tiny_config, tiny_model):
    """A checkpoint of a training run, as wished: a function of the switches of its model and its transform."""
    vlm, action = (replace(expert, num_kv_heads=1) for expert in (tiny_config.vlm, tiny_config.action))

    def make(
        model: dict[str, Any],
        transform: dict[str, Any],
        tokenizer: Tokenizer | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Path:
        config = replace(tiny_config, **{"vlm": vlm, "action": action, "vocab_size": 304, "state_dim": 6} | model)
        rng = np.random.default_rng(0)
        stats = DatasetStats(Stats.of(rng.normal(size=(50, 3))), Stats.of(rng.normal(size=(50, 3))))
        plain: dict[str, Any] = {
            "normalization": "lerobot-z-score",
            "prompt_format": "lerobot-pi0",
            "resize": "lerobot",
        }
        transform_config = TransformConfig(
            embodiment=ROBOT,
            image_size=config.vision.image_size,
            state_dim=config.state_dim,
            action_dim=config.action_dim,
            horizon=config.horizon,
            **plain | transform,
        )
        saved = tokenizer or Tokenizer(GOLDEN / "lerobot_pi0_base" / "tokenizer" / "tokenizer.json")
        weights = Pi0(config).init_weights(torch.Generator().manual_seed(3)).to(dtype).state_dict()
        path = tmp_path / "trained"
        save_checkpoint(
            path, lambda file: save_tensors(file, weights), config, Transform(transform_config, stats, saved)
        )
        return path

    return make


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_run_survives_lerobot(trained, tmp_path, dtype):
    ours = trained({}, {"delta_actions": ("arm.x", "arm.y")}, dtype=dtype)
    remarks = export_lerobot(ours, tmp_path / "out")
    import_checkpoint(tmp_path / "out", tmp_path / "again", {"the user": Facts(robot=ROBOT, vision_heads=2)})
    model, transform = load_configs(ours)
    again_model, again = load_configs(tmp_path / "again")
    assert again_model == replace(model, euler_grid="lerobot")
    assert again.config == transform.config
    assert again.stats.to_json() == transform.stats.to_json()  # float64, which float32 does not hold
    assert any("does not clip" in line for line in remarks)
    theirs, mine = load_file(tmp_path / "again" / WEIGHTS), load_file(ours / WEIGHTS)
    assert all(torch.equal(theirs[name].to(weight.dtype), weight) for name, weight in mine.items())


@pytest.mark.parametrize(
    ("model", "transform", "field"),
    [
        ({"attention_softcap": 50.0}, {}, r"model\.attention_softcap is 50\.0"),
        ({"positions": "restart"}, {}, r"model\.positions is 'restart'"),
        ({"time_conditioning": "adaln"}, {}, r"model\.time_conditioning is 'adaln'"),
        ({"vision": CONVOLUTIONS}, {}, r"model\.vision\.stem is 'convolutions'"),
        ({"state_token": False}, {}, r"model\.state_token is False"),
        ({}, {"normalization": "bounds"}, r"transform\.normalization is 'bounds'"),
        ({}, {"normalization": "z-score"}, r"transform\.normalization is 'z-score'"),
        ({}, {"prompt_format": "open-pi-zero"}, r"transform\.prompt_format is 'open-pi-zero'"),
        ({}, {"resize": "squash"}, r"transform\.resize is 'squash'"),
        ({}, {"raw_state": ("x",)}, r"transform\.raw_state is \('x',\)"),
        ({}, {"raw_actions": ("gripper",)}, r"transform\.raw_actions is \('gripper',\)"),
    ],
)
def test_what_lerobot_cannot_say_is_refused_by_name(trained, tmp_path, model, transform, field):
    with pytest.raises(ValueError, match=f"lerobot cannot say what this policy is: .*{field}"):
        export_lerobot(trained(model, transform), tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_relative_actions_that_lerobots_rule_does_not_reach_are_refused(trained, tmp_path):
    """It would exclude "arm.x" with "arm", a part of its name; here it is asked to keep one of two equal beginnings."""
    robot = replace(ROBOT, actions=("arm", "arm.y", "gripper"))
    ours = trained({}, {})
    config = json.loads((ours / "config.json").read_text())
    config["transform"] |= {"embodiment": robot.to_json(), "delta_actions": ["arm.y"]}
    (ours / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"transform\.delta_actions is \('arm\.y',\)"):
        export_lerobot(ours, tmp_path / "out")


@pytest.mark.parametrize(
    ("model", "transform", "field"),
    [
        ({"time_min_period": 0.01}, {}, r"model\.time_min_period is 0\.01"),
        ({"state_dim": 7}, {}, r"model\.state_dim is 7 \(openpi has 32\)"),
        ({"action_dim": 7, "state_dim": 7}, {}, r"model\.action_dim is 7 \(openpi has 32\)"),
        ({}, {"normalization": "quantile"}, r"transform\.normalization is 'quantile' \(openpi has 'z-score'\)"),
        ({}, {"resize": "lerobot"}, r"transform\.resize is 'lerobot' \(openpi has 'pad'\)"),
    ],
)
def test_what_openpi_cannot_say_is_refused_by_name(trained, tmp_path, model, transform, field):
    plain = {"normalization": "z-score", "prompt_format": "pi0", "resize": "pad"}
    ours = trained({"state_dim": 32, "action_dim": 32} | model, plain | transform)
    with pytest.raises(ValueError, match=rf"is: {field}[^;]*$"):
        export_openpi(ours, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_sentencepiece_model_that_lerobot_does_not_have_is_refused(trained, tmp_path):
    ours = trained({"vocab_size": 400}, {}, Tokenizer(train_tokenizer(TEXTS, 300)))
    with pytest.raises(ValueError, match=r"its tokenizer is a sentencepiece model of \d+ tokens"):
        export_lerobot(ours, tmp_path / "out")


def test_transformers_reads_the_exported_tokenizer_as_lerobot_does(trained, tmp_path):
    transformers = pytest.importorskip("transformers")
    export_lerobot(trained({}, {}), tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    ours = Tokenizer(tmp_path / "out" / "tokenizer" / "tokenizer.json")
    batch = theirs([f"{text}\n" for text in TEXTS], padding="max_length", max_length=30, padding_side="right")
    ids, mask = ours.encode_batch(TEXTS, 30, "lerobot-pi0")
    assert batch["input_ids"] == ids.tolist()
    assert batch["attention_mask"] == mask.long().tolist()


def test_a_plain_file_holds_weights_config_and_statistics(trained, tmp_path):
    ours = trained({}, {})
    export_safetensors(ours, tmp_path / "out.safetensors")
    weights = load_file(ours / WEIGHTS)
    out = load_file(tmp_path / "out.safetensors")
    assert weights.keys() == out.keys()
    assert all(torch.equal(weights[name], out[name]) for name in weights)
    with safe_open(tmp_path / "out.safetensors", "pt") as tensors:
        metadata = tensors.metadata()
    assert json.loads(metadata["config"]) == json.loads((ours / "config.json").read_text())
    assert json.loads(metadata["stats"]) == json.loads((ours / "stats.json").read_text())


@pytest.mark.parametrize("export", [export_lerobot, export_openpi, export_safetensors])
def test_nothing_is_overwritten(trained, tmp_path, export):
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        export(trained({}, {}), tmp_path / "out")


def test_an_export_that_stops_half_way_leaves_nothing(trained, tmp_path):
    def stop(done: float, total: float, note: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_lerobot(trained({}, {}), tmp_path / "out", stop)
    assert not list(tmp_path.glob("out*"))


def test_released_sizes_have_openpis_names():
    config = Pi0Config()
    assert (variant(config.vlm), variant(config.action)) == ("gemma_2b", "gemma_300m")
