"""Our checkpoints in the formats of other programs. What a format cannot say is refused by name, never left out.

Weights of openpi and lerobot are of the reversed time; `turn` is its own inverse, so what was imported comes out bit
for bit.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pizero.data.stats import Stats
from pizero.data.transform import Transform
from pizero.model.config import GemmaConfig, Pi0Config
from pizero.model.pi0 import Pi0
from pizero.weights.adapter_source import is_adapter, open_adapter
from pizero.weights.checkpoint import CONFIG, STATS, WEIGHTS, load_configs
from pizero.weights.norm_stats import ARRAYS
from pizero.weights.norm_stats import FILE as NORM_STATS
from pizero.weights.openpi import EMBEDDING, PALIGEMMA_TOKENS, TIED, openpi_key
from pizero.weights.recipe import check, copy
from pizero.weights.source import SafetensorsSource, Source, read_json
from pizero.weights.turn import READ_OUT, time_layer, turn_columns
from pizero.weights.writer import Report, write_safetensors

UNUSED_HEAD = "paligemma_with_expert.gemma_expert.lm_head.weight"
"""A head that both programs have and never use, (vocabulary, width of the action expert)."""
VARIANTS = {
    (2048, 18, 16384, 8, 1, 256): "gemma_2b",
    (1024, 18, 4096, 8, 1, 256): "gemma_300m",
    (64, 4, 128, 8, 1, 16): "dummy",
}
"""openpi's names for an expert of width, depth, mlp_dim, heads, kv heads, head_dim (src/openpi/models/gemma.py)."""
ACTION_DIM = 32
"""A constant of openpi's src/openpi/models_pytorch/pi0_pytorch.py, whatever its config says."""
OPENPI_NORMALIZATION = {"input": "z-score", "adarms": "quantile"}
OPENPI_PROMPTS = {"input": ("pi0",), "adarms": ("pi05", "pi0")}
"""With `discrete_state_input` off, pi0.5 reads pi0's prompt (src/openpi/models/pi0_config.py)."""

Limit = tuple[str, Any, tuple[Any, ...]]
"""The dotted name of a field, its value, and the values that the other format can say."""


@dataclass(frozen=True)
class Ours:
    """A checkpoint of ours whose weights are on disk."""

    path: Path
    model: Pi0Config
    transform: Transform
    source: Source

    def dtype(self, name: str) -> torch.dtype:
        """The type in which a parameter is written.

        Turned weights of an import are float64 here and get the type of their layer's bias, which they had. Those of a
        training run get a type in which nothing of them is lost when they are turned back: both programs cast it.
        """
        dtype = self.source.tensors[name].dtype
        if name != time_layer(self.model):
            assert isinstance(dtype, torch.dtype)
            return dtype
        bias = self.source.tensors[name.removesuffix("weight") + "bias"].dtype
        if dtype is torch.float64 and isinstance(bias, torch.dtype):
            return bias
        return torch.float64 if dtype is torch.float32 else torch.float32

    def read(self, name: str) -> Tensor:
        """A parameter, of time 0 = data."""
        tensor = self.source.read(name)
        if name in READ_OUT:
            return -tensor
        return turn_columns(tensor, self.model) if name == time_layer(self.model) else tensor


def read_ours(checkpoint: Path) -> Ours:
    """The checkpoint, checked as a whole; no weight is read. Raises ValueError when it is none, or broken."""
    model, transform = load_configs(checkpoint)
    adapters = is_adapter(checkpoint)
    source = open_adapter(checkpoint) if adapters else SafetensorsSource(checkpoint, [checkpoint / WEIGHTS])
    with torch.device("meta"):
        shapes = {name: tuple(x.shape) for name, x in Pi0(model).state_dict().items()}
    check(source, {name: copy(name, shape) for name, shape in shapes.items()})
    return Ours(checkpoint, model, transform, source)


def export_openpi(checkpoint: Path, output: Path, report: Report | None = None) -> tuple[str, ...]:
    """Write the folder `output` for openpi's PyTorch policies; what its user has to know comes back, line by line.

    Raises ValueError when `output` exists, and for what openpi has no place for.
    """
    refuse_existing(output)
    ours = read_ours(checkpoint)
    model, transform = ours.model, ours.transform.config
    same_width = (model.action_dim,) if model.state_token else (model.state_dim,)
    kind = model.time_conditioning
    refuse(
        "openpi",
        *network_limits(model),
        ("model.time_min_period", model.time_min_period, (4e-3,)),
        ("model.time_max_period", model.time_max_period, (4.0,)),
        ("model.action_dim", model.action_dim, (ACTION_DIM,)),
        ("model.state_dim", model.state_dim, same_width),
        ("transform.normalization", transform.normalization, (OPENPI_NORMALIZATION.get(kind),)),
        ("transform.prompt_format", transform.prompt_format, OPENPI_PROMPTS.get(kind, ())),
        ("transform.resize", transform.resize, ("pad",)),
        ("transform.raw_state", transform.raw_state, ((),)),
        ("transform.raw_actions", transform.raw_actions, ((),)),
    )

    def write(folder: Path) -> None:
        write_foreign(folder / WEIGHTS, ours, openpi_tensors(ours), report, {"format": "pt", EMBEDDING: TIED})
        write_json(folder / CONFIG, openpi_config(ours), indent=2)
        file = folder / "assets" / transform.embodiment.name / NORM_STATS
        file.parent.mkdir(parents=True)
        stats = ours.transform.stats
        write_json(file, {"norm_stats": {"state": _four(stats.state), "actions": _four(stats.actions)}}, indent=2)

    write_folder(output, write)
    return openpi_remarks(ours)


def export_safetensors(checkpoint: Path, output: Path, report: Report | None = None) -> tuple[str, ...]:
    """Write one safetensors file with our names; its metadata hold config and statistics as JSON.

    Raises ValueError when `output` exists.
    """
    refuse_existing(output)
    ours = read_ours(checkpoint)
    tensors = {name: (info.dtype, info.shape) for name, info in ours.source.tensors.items()}
    plain = {name: (dtype, shape) for name, (dtype, shape) in tensors.items() if isinstance(dtype, torch.dtype)}
    metadata = {
        "format": "pt",
        "config": json.dumps(read_json(checkpoint / CONFIG)),
        "stats": json.dumps(read_json(checkpoint / STATS)),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(output, plain, ours.source.read, report, metadata)
    return (f"the tokenizer is not in it: {ours.transform.tokenizer.file_name}",)


def refuse_existing(output: Path) -> None:
    """Raises ValueError when there is something at `output`."""
    if output.exists():
        raise ValueError(f"{output} exists already; remove it or choose another name")


def refuse(program: str, *limits: Limit) -> None:
    """Raises ValueError that names every field whose value the other format cannot say."""
    problems = []
    for field, value, allowed in limits:
        if value not in allowed:
            choices = " or ".join(repr(choice) for choice in allowed) or "nothing of the kind"
            problems.append(f"{field} is {value!r} ({program} has {choices})")
    if problems:
        raise ValueError(f"{program} cannot say what this policy is: {'; '.join(problems)}")


def network_limits(model: Pi0Config) -> Iterable[Limit]:
    """What openpi's and lerobot's networks have in common."""
    return (
        ("model.time_conditioning", model.time_conditioning, ("input", "adarms")),
        ("model.vision.stem", model.vision.stem, ("patches",)),
        ("model.state_token", model.state_token, (model.time_conditioning != "adarms",)),
        ("model.positions", model.positions, ("counted",)),
        ("model.attention_softcap", model.attention_softcap, (None,)),
        ("model.vlm.rope_base", model.vlm.rope_base, (10_000.0,)),
        ("model.action.rope_base", model.action.rope_base, (10_000.0,)),
        ("model.vlm.num_kv_heads", model.vlm.num_kv_heads, (1,)),
    )


def write_foreign(
    file: Path, ours: Ours, parameters: Mapping[str, str | None], report: Report | None, metadata: Mapping[str, str]
) -> None:
    """Write tensors made of ours: the key of each and the name of our parameter, None for the unused head."""
    names = {key: "embed_tokens.weight" if name is None else name for key, name in parameters.items()}
    head = (ours.model.vocab_size, ours.model.action.width)
    tensors = {
        key: (ours.dtype(name), head if parameters[key] is None else ours.source.tensors[name].shape)
        for key, name in names.items()
    }

    def make(key: str) -> Tensor:
        name = parameters[key]
        return torch.zeros(head, dtype=tensors[key][0]) if name is None else ours.read(name)

    write_safetensors(file, tensors, make, report, metadata)


def openpi_tensors(ours: Ours) -> dict[str, str | None]:
    """openpi's keys and our parameters; the token embedding under the name of the head that it is tied to."""
    keys: dict[str, str | None] = {openpi_key(name): name for name in ours.source.tensors}
    keys[TIED] = keys.pop(EMBEDDING)
    keys[UNUSED_HEAD] = None
    return {key: keys[key] for key in sorted(keys)}


def openpi_config(ours: Ours) -> dict[str, Any]:
    """What openpi's converter writes (examples/convert_jax_model_to_pytorch.py)."""
    return {
        "action_dim": ours.model.action_dim,
        "action_horizon": ours.model.horizon,
        "paligemma_variant": variant(ours.model.vlm),
        "action_expert_variant": variant(ours.model.action),
        "precision": precision(ours),
    }


def variant(expert: GemmaConfig) -> str:
    """openpi's name for the sizes of an expert; "custom" when it has none."""
    sizes = (expert.width, expert.depth, expert.mlp_dim, expert.num_heads, expert.num_kv_heads, expert.head_dim)
    return VARIANTS.get(sizes, "custom")


def precision(ours: Ours) -> str:
    """The type of the large matrices, in both programs' words."""
    dtype = ours.source.tensors["vlm.layers.0.self_attn.q_proj.weight"].dtype
    return "bfloat16" if dtype is torch.bfloat16 else "float32"


def openpi_remarks(ours: Ours) -> tuple[str, ...]:
    """What openpi keeps in a train config, which its user has to choose to match."""
    model, transform = ours.model, ours.transform.config
    pi05 = model.time_conditioning == "adarms"
    network = f"pi05={pi05}, action_dim={model.action_dim}, action_horizon={model.horizon}"
    state = f", discrete_state_input={transform.prompt_format == 'pi05'}" if pi05 else ""
    lines = [
        f"serve it with a train config of {network}, max_token_len={transform.prompt_length}{state}, "
        f"asset_id={transform.embodiment.name!r}",
        f"its cameras, in the model's order: {', '.join(transform.embodiment.cameras)}",
    ]
    if transform.delta_actions:
        lines.append(f"the config must make these actions relative to the state: {', '.join(transform.delta_actions)}")
    if transform.joint_units != "robot":
        lines.append("the config must convert joints with adapt_to_pi=True")
    return (*lines, *common_remarks(ours, "openpi"))


def common_remarks(ours: Ours, program: str) -> tuple[str, ...]:
    """What changes nothing in the weights and is good to know."""
    lines = []
    model, robot = ours.model, ours.transform.config.embodiment
    if model.euler_grid != program:
        lines.append(f"{program} rounds the times of its Euler steps its own way, here it is {model.euler_grid!r}")
    if robot.action_low:
        lines.append(f"{program} does not clip actions to what {robot.name} accepts")
    if "custom" in (variant(model.vlm), variant(model.action)):
        lines.append(f"these sizes are no variant of {program}: it must be told them before it can load the weights")
    if model.vocab_size != PALIGEMMA_TOKENS:
        lines.append(f"{program} expects {PALIGEMMA_TOKENS} tokens, this model has {model.vocab_size}")
    return tuple(lines)


def write_json(file: Path, data: Any, indent: int) -> None:
    """Plain values to a file."""
    file.write_text(json.dumps(data, indent=indent) + "\n")


def write_folder(output: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a folder aside, `<output>.part`, then give it its name; nothing is left when it raises."""
    aside = output.with_name(output.name + ".part")
    if aside.exists():  # left by a run that was killed
        shutil.rmtree(aside)
    aside.mkdir(parents=True)
    try:
        write(aside)
    except BaseException:
        shutil.rmtree(aside)
        raise
    os.rename(aside, output)


def _four(stats: Stats) -> dict[str, list[float]]:
    """The statistics that openpi's file has."""
    arrays = {name: getattr(stats, name) for name in ARRAYS}
    return {name: array.tolist() for name, array in arrays.items() if array is not None}
