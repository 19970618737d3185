"""What must be known of a policy beside its weights: said by its files, by a recipe, or by the user; never guessed."""

from dataclasses import dataclass, fields
from pathlib import Path

from pizero.data.choice import JointUnits, Normalization, PromptFormat, Resize
from pizero.data.stats import DatasetStats
from pizero.embodiment import Embodiment


@dataclass(frozen=True)
class Facts:
    """Everything None is not known. The name of a field is that of the flag that says it."""

    horizon: int | None = None
    """Timesteps of an action chunk."""
    robot: Embodiment | None = None
    """The robot: cameras in the model's order, names of state and actions."""
    stats: DatasetStats | None = None
    """Statistics by which state and actions are normalised."""
    normalization: Normalization | None = None
    """How state and actions are scaled."""
    prompt_format: PromptFormat | None = None
    """What the model reads as text."""
    prompt_length: int | None = None
    """Most tokens of a prompt."""
    resize: Resize | None = None
    """How pictures get the model's size."""
    delta_actions: tuple[str, ...] | None = None
    """Action dimensions that the model gives relative to the state; () when there are none."""
    raw_state: tuple[str, ...] | None = None
    """State dimensions that are not normalised; () when there are none."""
    raw_actions: tuple[str, ...] | None = None
    """Action dimensions that are not normalised; () when there are none."""
    joint_units: JointUnits | None = None
    """Whether joints pass openpi's conversion for ALOHA."""
    tokenizer: Path | None = None
    """File of the tokenizer that belongs to the weights: a sentencepiece model or a tokenizer.json."""
    vision_heads: int | None = None
    """Attention heads of the vision tower, which no tensor's shape tells."""
    vlm_rope_base: float | None = None
    """Base of the rotary embedding of image and prompt tokens."""
    action_rope_base: float | None = None
    """Base of the rotary embedding of state and action tokens."""
    time_max_period: float | None = None
    """open-pi-zero's `time_max_period`: base of the frequencies of its time embedding."""
    adapter: Path | None = None
    """Folder of a PEFT adapter to merge into the weights, where it is not the checkpoint's own."""
    base: Path | None = None
    """Folder of the weights that an adapter was trained on, where the checkpoint holds an adapter alone."""
    lora_alpha: float | None = None
    """Alpha of openpi's attention adapters, which its files do not hold."""
    lora_rslora: bool | None = None
    """Whether those adapters scale by alpha / sqrt(rank) instead of alpha / rank; None: they do not."""
    fresh_expert: int | None = None
    """Seed of a fresh action expert, for a PaliGemma, which has none."""


def merge(said: dict[str, Facts]) -> Facts:
    """All facts together, by who says them.

    Raises ValueError when two say different things; names both.
    """
    known: dict[str, object] = {}
    origin: dict[str, str] = {}
    for who, facts in said.items():
        for field in fields(Facts):
            value = getattr(facts, field.name)
            if value is None:
                continue
            if field.name in known and known[field.name] is not value and not _equal(known[field.name], value):
                raise ValueError(
                    f"{flag(field.name)}: {origin[field.name]} says {_show(known[field.name])}, "
                    f"{who} says {_show(value)}; leave one of them out"
                )
            known[field.name], origin[field.name] = value, who
    return Facts(**known)  # type: ignore[arg-type]


def require(facts: Facts, names: dict[str, str], place: str) -> None:
    """Raises ValueError that lists every fact of `names` (name -> why nobody says it) that is not known."""
    missing = [f"{flag(name)} ({why})" for name, why in names.items() if getattr(facts, name) is None]
    if missing:
        raise ValueError(f"{place} does not say all that its policy needs; give {', '.join(missing)}")


def flag(name: str) -> str:
    """The flag that says a fact."""
    return "--" + name.replace("_", "-")


def _equal(a: object, b: object) -> bool:
    if isinstance(a, DatasetStats) and isinstance(b, DatasetStats):
        return a.to_json() == b.to_json()
    return a == b


def _show(value: object) -> str:
    if isinstance(value, Embodiment):
        return f"robot {value.name}"
    return "other statistics" if isinstance(value, DatasetStats) else repr(value)
