"""What a run trains: everything, the action expert or adapters. The rest is frozen, and kept small."""

from collections.abc import Iterable

import torch
from torch import nn

from pizero.model.config import Pi0Config
from pizero.model.lora import Adapted, add_lora
from pizero.model.norm import RMSNorm
from pizero.model.pi0 import Pi0
from pizero.train.config import LORA_TARGETS, LoraConfig, TrainConfig
from pizero.train.optimizer import VLM_PARTS
from pizero.train.seed import mixed
from pizero.weights.adapter_source import AdapterConfig, file_sha256, is_adapter
from pizero.weights.checkpoint import WEIGHTS, is_checkpoint

ADAPTER_STREAM, DROPOUT_STREAM = 11, 12
"""Keep the random numbers of fresh adapters and of their dropout apart from all others of the seed."""


def prepare(model: Pi0, config: TrainConfig) -> dict[str, nn.Parameter]:
    """Make the model, in place, what `config.tune` trains; the trained parameters by name, in the model's order.

    The model has its weights, float32, on any device. Adapters are added; what is not trained gets no gradient. Kept in
    float32 are: all of it with precision fp32; else heads, norms and adapters, and with bf16 all that is trained. The
    rest becomes bfloat16, with "qlora" the linear layers of the adapted parts 4-bit.
    """
    if config.tune in ("lora", "qlora"):
        _adapt(model, config)
    trained = trained_parameters(model, config.tune)
    exact = _exact_parameters(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
        master = config.precision == "fp32" or (config.precision == "bf16" and name in trained)
        if parameter.is_floating_point() and not (master or name in exact):
            parameter.data = parameter.data.to(torch.bfloat16)
    return trained


def check_tune(config: TrainConfig) -> None:
    """Raises ValueError when adapters would have no base of ours to belong to; reads no weights."""
    if config.tune not in ("lora", "qlora"):
        return
    assert config.init is not None, "TrainConfig checks it"
    if not is_checkpoint(config.init):
        raise ValueError(
            f"tune {config.tune} keeps adapters of a whole policy, and init, {config.init}, is no checkpoint of ours; "
            "make one with `pizero import SRC DST`, or use --tune full or expert"
        )
    if is_adapter(config.init):
        raise ValueError(
            f"init {config.init} holds adapters itself; make a checkpoint of it with `pizero merge {config.init} DST` "
            "and give that"
        )


def unused_parameters(config: Pi0Config) -> frozenset[str]:
    """Names of the parameters that no output depends on.

    The action expert attends to the keys and values of the vlm, so that of the last vlm layer nothing else is needed,
    and the norm after it neither.
    """
    last = f"vlm.layers.{config.vlm.depth - 1}."
    parts = (
        "self_attn.q_proj",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    )
    return frozenset({"vlm.norm.weight", *(f"{last}{part}.weight" for part in parts)})


def trained_parameters(model: Pi0, tune: str = "full") -> dict[str, nn.Parameter]:
    """The parameters that are given to the optimiser, by name, in the model's order; adapters must have been added."""
    unused = unused_parameters(model.config)

    def is_trained(name: str) -> bool:
        if tune == "full":
            return name not in unused
        if tune == "expert":
            return name not in unused and not name.startswith(VLM_PARTS)
        return name.startswith("heads.") or ".lora_A." in name or ".lora_B." in name

    return {name: parameter for name, parameter in model.named_parameters() if is_trained(name)}


def vlm_parameters(names: Iterable[str]) -> frozenset[str]:
    """Those that `optim.vlm_lr` is for: of the vision-language model, its adapters too."""
    return frozenset(name for name in names if name.startswith(VLM_PARTS))


def adapted_layers(model: Pi0, config: LoraConfig) -> list[str]:
    """Names of the linear layers that get adapters, in the model's order; none on which no output depends.

    Raises ValueError when there are none.
    """
    unused = unused_parameters(model.config)
    names = [name for name in linear_layers(model, config, config.targets) if f"{name}.weight" not in unused]
    if not names:
        parts = ", ".join(_parts(config))
        raise ValueError(f"lora.targets {config.targets} names no layer of {parts}; choose among {LORA_TARGETS}")
    return names


def linear_layers(model: Pi0, config: LoraConfig, targets: tuple[str, ...] = LORA_TARGETS) -> list[str]:
    """Names of the plain linear layers of these last names in the parts that are adapted, in the model's order."""
    return [
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear and name.startswith(_parts(config)) and name.rpartition(".")[2] in targets
    ]


def adapter_config(model: Pi0, config: TrainConfig) -> AdapterConfig | None:
    """What `save_adapter` must know of the adapters of a prepared model; None when the run has none.

    Computes the hash of the base, which reads the whole file: once per run is enough.
    """
    if config.tune not in ("lora", "qlora"):
        return None
    assert config.init is not None, "TrainConfig checks it"
    adapted = tuple(name for name, module in model.named_modules() if isinstance(module, Adapted))
    packed = tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not module.weight.is_floating_point()
    )
    base = config.init.resolve()
    lora = config.lora
    return AdapterConfig(base, file_sha256(base / WEIGHTS), lora.rank, lora.alpha, lora.dropout, adapted, packed)


def seed_dropout(config: TrainConfig, step: int, row: int) -> None:
    """Make the dropout of adapters depend on seed, step and position alone: call it before each piece of a batch.

    `row` is the number of the piece's first row in the global batch. Seeds torch's global generators, from which
    dropout draws; does nothing where the config has no dropout.
    """
    if config.tune in ("lora", "qlora") and config.lora.dropout > 0:
        torch.manual_seed(mixed(config.seed, DROPOUT_STREAM, step, row))


def _adapt(model: Pi0, config: TrainConfig) -> None:
    lora, names = config.lora, adapted_layers(model, config.lora)
    generator = torch.Generator().manual_seed(mixed(config.seed, ADAPTER_STREAM))
    if config.tune == "lora":
        add_lora(model, names, lora.rank, lora.alpha, lora.dropout, generator)
        return
    from pizero.model.qlora import add_qlora  # needs bitsandbytes

    compute = torch.float32 if config.precision == "fp32" else torch.bfloat16
    packed = linear_layers(model, lora)
    add_qlora(model, packed, names, compute, lora.rank, lora.alpha, lora.dropout, generator)


def _parts(config: LoraConfig) -> tuple[str, ...]:
    chosen = {"vision.": config.vision, "vlm.": config.vlm, "action.": config.action}
    return tuple(part for part, adapted in chosen.items() if adapted)


def _exact_parameters(model: Pi0) -> frozenset[str]:
    """Names of what is float32 in every run: heads, adapters, and the weights of norms that depend on no time.

    The others' are as large as the linear layers that they are.
    """
    norms = {
        f"{name}.{inner}"
        for name, module in model.named_modules()
        if isinstance(module, RMSNorm | nn.LayerNorm | nn.GroupNorm)
        for inner, _ in module.named_parameters()
    }
    names = (name for name, _ in model.named_parameters())
    return frozenset(norms | {name for name in names if name.startswith("heads.") or ".lora_" in name})
