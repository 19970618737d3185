"""Every layout on disk: whole, it is imported; with one thing wrong it is refused by name, and nothing is written."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_orbax import write_orbax
from torch import Tensor

from pizero.data.stats import DatasetStats, Stats
from pizero.embodiment import Embodiment
from pizero.weights.checkpoint import load_checkpoint
from pizero.weights.facts import Facts, merge, require
from pizero.weights.importer import import_checkpoint, load_foreign, read_foreign, recognise
from pizero.weights.orbax_source import OrbaxSource
from pizero.weights.paligemma import rename
from pizero.weights.recipe import check
from pizero.weights.source import Info, Source

GOLDEN = Path(__file__).parents[2] / "parity" / "golden"
ONE = Stats(np.zeros(8), np.ones(8), None, None, np.zeros(8), np.ones(8), None)
DEFAULTS = Facts(
    horizon=6,
    robot=Embodiment(
        name="arm",
        cameras=("front", "wrist"),
        state=tuple("abcdefg"),
        actions=tuple("abcdefg"),
        control_rate_hz=None,
        action_low=(),
        action_high=(),
    ),
    stats=DatasetStats(ONE, ONE),
    normalization="z-score",
    prompt_format="pi0",
    prompt_length=12,
    resize="pad",
    delta_actions=(),
    raw_state=(),
    raw_actions=(),
    joint_units="robot",
    tokenizer=GOLDEN / "lerobot_pi0_base" / "tokenizer" / "tokenizer.json",
    vision_heads=4,
    action_rope_base=100.0,
    time_max_period=100.0,
    lora_alpha=6.0,
    fresh_expert=0,
)
"""Said where a checkpoint does not say it itself."""
BIG = r".*(language_model|mixtures\.vlm)\..*layers\.1\.mlp\.up_proj\.weight"


@dataclass(frozen=True)
class Layout:
    """One way in which weights lie on disk."""

    path: str
    """In the folder of golden cases."""
    family: str
    words: str
    """How an error calls the layout."""
    key: str = BIG
    """Pattern of a matrix."""
    optional: str = r".*lm_head\.weight|.*language_model\.embed_tokens\.weight"
    """Patterns of keys that may be absent, or stand for each other."""


PALIGEMMA = "paligemma/base/"
LAYOUTS = {
    "official": Layout(PALIGEMMA + "official", "paligemma", "PaliGemma as on the hub (transformers before 4.52)"),
    "in memory": Layout(
        PALIGEMMA + "hf_4_52_in_memory", "paligemma", "PaliGemma in the memory of transformers 4.52 and later"
    ),
    "5.5": Layout(PALIGEMMA + "hf_5_5", "paligemma", "PaliGemma saved by transformers 5.5"),
    "5.23": Layout(PALIGEMMA + "hf_5_23", "paligemma", "PaliGemma saved by transformers 5.23"),
    "openpi": Layout("openpi_pi0_base", "openpi", "a pi0 policy of openpi"),
    "lerobot pi0": Layout("lerobot_pi0_base", "lerobot", "a pi0 policy of lerobot"),
    "lerobot pi05": Layout("lerobot_pi05_base", "lerobot", "a pi0 policy of lerobot"),
    "orbax": Layout(
        "openpi_jax_pi0_lora", "openpi-jax", "a pi0 policy of openpi in JAX", r"PaliGemma/llm/.*/gating_einsum", "-"
    ),
    "open-pi-zero": Layout(
        "open_pi_zero_rope100/step19296.pt",
        "open-pi-zero",
        "a pi0 policy of open-pi-zero",
        optional=r".*mixtures\.vlm\.layers\.2\.(mlp|post_attention_layernorm|self_attn\.o_proj)\..*",
    ),
    "adaLN": Layout(
        "open_pi_zero_adaln_zero/step19296.pt",
        "open-pi-zero",
        "a pi0 policy of open-pi-zero",
        optional=r".*mixtures\.vlm\.layers\.2\.(mlp|post_attention_layernorm|self_attn\.o_proj)\..*",
    ),
    "transformers": Layout("saved", "transformers", "a pi0 policy of openpi"),  # whose keys transformers writes
    "transformers in memory": Layout(
        "in_memory", "transformers", "a pi0 policy of transformers", optional=r".*(lm_head|embed_tokens)\.weight"
    ),
}


@pytest.fixture(scope="module")
def transformers_folder(tmp_path_factory, randomise) -> Path:
    """transformers' own pi0, saved by its save_pretrained, and under the names of its modules."""
    transformers = pytest.importorskip("transformers", minversion="5.17")
    size = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 10}
    gemma = {"model_type": "gemma", "vocab_size": 300, **size}
    vision = {"model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
    pictures = {"num_attention_heads": 4, "image_size": 28, "patch_size": 14, "vision_use_head": False}
    config = transformers.PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "vision_config": vision | pictures,
            "text_config": gemma | {"hidden_size": 32, "intermediate_size": 48},
            "projection_dim": 32,
            "image_token_index": 290,
        },
        dit_config=gemma | {"hidden_size": 20, "intermediate_size": 28},
        chunk_size=4,
        max_state_dim=8,
        max_action_dim=7,
    )
    model = transformers.PI0ForConditionalGeneration(config)
    randomise(model)
    path = tmp_path_factory.mktemp("transformers")
    model.save_pretrained(path / "saved")
    (path / "in_memory").mkdir()
    shutil.copy(path / "saved" / "config.json", path / "in_memory")
    save_file({key: x.clone() for key, x in model.state_dict().items()}, path / "in_memory" / "model.safetensors")
    return path


@pytest.fixture
def whole(request, layout) -> Path:
    """Where a layout lies."""
    inside = request.getfixturevalue("transformers_folder") if layout.startswith("transformers") else GOLDEN
    return inside / LAYOUTS[layout].path


def said(path: Path) -> dict[str, Facts]:
    """All that a checkpoint does not say itself, and does not refuse to be told."""
    family, source = recognise(path)
    theirs = family.facts(path, source)
    asked = set(family.needs(source, theirs)) - {"base"}
    asked |= {field.name for field in fields(Facts)} - {"lora_alpha", "fresh_expert"}
    known = {name: getattr(DEFAULTS, name) for name in asked if getattr(theirs, name) is None}
    return {"the test": Facts(**known)}


def load(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint under their own keys."""
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)["model"]
    if (path / "params").is_dir():
        source = OrbaxSource(path / "params")
        return {key: source.read(key) for key in source.tensors}
    return {key: value for file in sorted(path.glob("model*.safetensors")) for key, value in load_file(file).items()}


def save(tensors: dict[str, Tensor], like: Path, path: Path) -> Path:
    """Other tensors in the layout of the checkpoint `like`; sharded ones in one file."""
    if like.suffix == ".pt":
        path = path.with_suffix(".pt")
        torch.save({"model": tensors}, path)
    elif (like / "params").is_dir():
        shutil.copytree(like, path, ignore=shutil.ignore_patterns("params"))
        write_orbax(path / "params", {key: value.numpy() for key, value in tensors.items()})
    else:
        shutil.copytree(like, path, ignore=shutil.ignore_patterns("model*"))
        save_file({key: value.contiguous() for key, value in tensors.items()}, path / "model.safetensors")
    return path


def refuse(path: Path, facts: dict[str, Facts], folder: Path) -> str:
    """The one line with which an import is refused; `folder`, where it would write, stays empty."""
    folder.mkdir()
    with pytest.raises(ValueError) as error:
        import_checkpoint(path, folder / "out", facts)
    assert list(folder.iterdir()) == []
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_imported_whole(layout, whole, tmp_path):
    foreign = import_checkpoint(whole, tmp_path / "out", said(whole))
    assert foreign.family == LAYOUTS[layout].family
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "stats.json",
        "tokenizer.json",
    ]
    loaded, direct = load_checkpoint(tmp_path / "out").model.state_dict(), load_foreign(foreign).state_dict()
    assert all(torch.equal(loaded[name], direct[name]) for name in direct)
    again = save(load(whole), whole, tmp_path / "again")  # so that what is broken below is so by the change alone
    read_foreign(again, said(again))


BREAKS: dict[str, tuple[Callable[[dict[str, Tensor], str], object], tuple[str, ...]]] = {
    "deleted": (lambda tensors, key: tensors.pop(key), ("missing: {key}",)),
    "renamed": (
        lambda tensors, key: tensors.update({key + "_x": tensors.pop(key)}),
        ("missing: {key}", "unexpected: {key}_x"),
    ),
    "transposed": (
        lambda tensors, key: tensors.update({key: tensors[key].mT.contiguous()}),
        ("mis-shaped: {key} is {turned}, the model needs {shape}",),
    ),
    "unexpected": (
        lambda tensors, key: tensors.update({key + "_more": torch.zeros(2)}),
        ("unexpected: {key}_more",),
    ),
    "whole numbers": (
        lambda tensors, key: tensors.update({key: tensors[key].int()}),
        ("not floating point: {key} is ",),
    ),
    "full of others": (
        lambda tensors, key: tensors.update({f"other.{i}.x": torch.zeros(1) for i in range(25)}),
        ("unexpected: other.0.x", "; and 5 more. "),
    ),
}


@pytest.mark.parametrize("kind", BREAKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_wrong_tensor_is_named_and_nothing_is_written(layout, kind, whole, tmp_path):
    change, expected = BREAKS[kind]
    tensors, facts = load(whole), said(whole)
    found = next(key for key in tensors if re.fullmatch(LAYOUTS[layout].key, key))
    shape = tuple(tensors[found].shape)
    change(tensors, found)
    if kind == "full of others" and layout == "adaLN":
        tensors = {key if key.startswith("_orig") else "_orig_mod." + key: value for key, value in tensors.items()}
    message = refuse(save(tensors, whole, tmp_path / "broken"), facts, tmp_path / "empty")
    words = {
        "key": found.removeprefix("_orig_mod."),
        "shape": shape,
        "turned": (*shape[:-2], shape[-1], shape[-2]),
    }
    for text in expected:
        assert text.format(**words) in message
    assert message.count("unexpected: ") + message.count("missing: ") <= 20
    assert message.endswith(f"Its keys look like {LAYOUTS[layout].words}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_truncated_file_is_named_and_nothing_is_written(layout, whole, tmp_path):
    facts = said(whole)
    copied = tmp_path / f"cut{whole.suffix}"
    (shutil.copytree if whole.is_dir() else shutil.copy)(whole, copied)
    files = [copied] if copied.is_file() else list(copied.rglob("*"))
    largest = max((file for file in files if file.is_file()), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: int(0.7 * largest.stat().st_size)])
    message = refuse(copied, facts, tmp_path / "empty")
    assert "truncated" in message
    assert str(largest if LAYOUTS[layout].family != "openpi-jax" else copied / "params") in message


class Changed:
    """A source with other keys or shapes."""

    def __init__(self, source: Source, tensors: dict[str, Info]) -> None:
        self.path, self.tensors, self.read = source.path, tensors, source.read


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whichever_tensor_is_missing_or_transposed_it_is_named(layout, whole):
    """Those too from which sizes are read; every twelfth, to be quick."""
    family, source = recognise(whole)
    facts = merge({"file": family.facts(whole, source)} | said(whole))

    def plan(changed: Source) -> None:
        require(facts, family.needs(changed, facts), "it")
        planned = family.plan(changed, facts)
        check(changed, planned.recipes, planned.unused)

    def message(tensors: dict[str, Info]) -> str:
        with pytest.raises(ValueError) as error:
            plan(Changed(source, tensors))
        return str(error.value)

    sizes = (
        r".*((action_out_proj|action_decoder)\.bias|(pos|patch|position)_embedding.*|state_proj.*|layer_norm1\.bias)"
    )
    for i, (key, info) in enumerate(source.tensors.items()):
        if re.fullmatch(LAYOUTS[layout].optional, key) or not (i % 12 == 0 or re.fullmatch(sizes, key)):
            continue
        rest = {name: other for name, other in source.tensors.items() if name != key}
        names = {key, rename(key) if family.NAME == "paligemma" and ".layers." not in key else key}
        assert re.search(rf"(missing: |lacks )({'|'.join(map(re.escape, names))})(?!\w)", message(rest)), key
        if info.shape != info.shape[::-1]:
            text = message(rest | {key: Info(info.shape[::-1], info.dtype)})
            assert f"mis-shaped: {key} is" in text, key


# what is no checkpoint


def test_what_is_at_a_path_of_no_family_is_said(tmp_path):
    def message(path: Path) -> str:
        with pytest.raises(ValueError) as error:
            recognise(path)
        return str(error.value)

    assert message(tmp_path / "nowhere").endswith("does not exist; give the folder or file of a checkpoint")
    assert message(tmp_path).endswith("is no checkpoint known here: it holds nothing")
    (tmp_path / "notes.txt").write_text("")
    assert message(tmp_path).endswith("it holds notes.txt")
    assert message(tmp_path / "notes.txt").endswith("known files are .safetensors and open-pi-zero's .pt")
    save_file({f"model.layers.{i}.x": torch.zeros(1) for i in range(3)}, tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert message(path).endswith("its keys look like Gemma without a vision tower")
    torch.save({"model": {"layers.0.weight": torch.zeros(1)}}, tmp_path / "other.pt")
    assert "is no checkpoint known here" in message(tmp_path / "other.pt")


def test_a_checkpoint_of_ours_needs_no_import(tmp_path):
    whole = GOLDEN / "lerobot_pi0_base"
    import_checkpoint(whole, tmp_path / "out", said(whole))
    with pytest.raises(ValueError, match="is a checkpoint of pizero already"):
        import_checkpoint(tmp_path / "out", tmp_path / "again", {})
    save_file(load_file(tmp_path / "out" / "model.safetensors"), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="its keys look like a checkpoint of pizero"):
        recognise(tmp_path / "x.safetensors")


def test_an_existing_folder_is_not_replaced(tmp_path):
    whole = GOLDEN / "lerobot_pi0_base"
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        import_checkpoint(whole, tmp_path / "out", said(whole))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_the_middle_leaves_nothing(tmp_path, error):
    whole, seen = GOLDEN / "lerobot_pi0_base", []

    def report(done: float, total: float, note: str) -> None:
        seen.append(done / total)
        if done > total / 2:
            assert (tmp_path / "out.part").is_dir()
            raise error

    with pytest.raises(error):
        import_checkpoint(whole, tmp_path / "out", said(whole), report)
    assert 0.5 < seen[-1] < 1
    assert list(tmp_path.iterdir()) == []


# types


@pytest.mark.parametrize("layout", ["openpi", "open-pi-zero"])
def test_bfloat16_stays_but_where_that_would_round(layout, whole, tmp_path):
    path = save({key: value.bfloat16() for key, value in load(whole).items()}, whole, tmp_path / "x")
    import_checkpoint(path, tmp_path / "out", said(path))
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    others = {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype is not torch.bfloat16}
    assert others == ({"heads.action_time_mlp_in.weight": torch.float64} if layout == "openpi" else {})


def test_a_robot_with_more_dimensions_than_the_statistics_is_refused(tmp_path):
    whole = GOLDEN / "openpi_pi0_base"
    facts = said(whole)["the test"]
    assert facts.robot is not None
    robot = replace(facts.robot, state=tuple("abcdefghij"))
    message = refuse(whole, {"the user": replace(facts, robot=robot)}, tmp_path / "empty")
    assert "--stats has 8 dimensions, the state of arm has 10" in message


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path):
    """One with more tokens than the embedding has rows."""
    whole = GOLDEN / "openpi_pi0_base"
    facts = said(whole)["the test"]
    assert facts.tokenizer is not None
    data = json.loads(facts.tokenizer.read_text())
    first = max(data["model"]["vocab"].values()) + 1
    data["model"]["vocab"] |= {f"word{i}": first + i for i in range(100)}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    message = refuse(whole, {"x": replace(facts, tokenizer=tmp_path / "tokenizer.json")}, tmp_path / "empty")
    assert "the tokenizer has" in message
    assert "vocab_size of the model is 304" in message
