"""`pizero import`: a checkpoint of another program becomes one of ours."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from pizero.command.parse import parse
from pizero.data.choice import JointUnits, Normalization, PromptFormat, Resize

if TYPE_CHECKING:
    from pizero.weights.facts import Facts


@dataclass(frozen=True)
class Import:
    """Convert a pi0 or pi0.5 policy of openpi (PyTorch or JAX), lerobot, open-pi-zero or transformers, or a PaliGemma.

    What SRC is, is recognised. What its files do not say is asked for by flag; nothing is guessed.
    """

    src: Positional[Path]
    """Folder or file of the checkpoint."""
    dst: Positional[Path]
    """Folder to write; it must not exist."""
    recipe: str | None = None
    """Name of the training config of openpi or open-pi-zero that says what the files do not, such as pi05_libero or
    bridge; `pizero show recipes` lists them."""
    robot: str | None = None
    """A robot of `pizero show robots`, or a JSON file that describes one."""
    stats: Path | None = None
    """Statistics, where SRC has none or several: openpi's norm_stats.json, open-pi-zero's, a LeRobot data set's."""
    tokenizer: Path | None = None
    """paligemma_tokenizer.model or tokenizer.json."""
    horizon: int | None = None
    """Timesteps of an action chunk."""
    normalization: Normalization | None = None
    """How state and actions are scaled."""
    prompt_format: PromptFormat | None = None
    """What the model reads: "pi05" has the state in the prompt, "pi0" only the instruction."""
    prompt_length: int | None = None
    """Most tokens of a prompt."""
    resize: Resize | None = None
    """How pictures get the model's size."""
    delta_actions: tuple[str, ...] | None = None
    """Actions that the model gives relative to the state; without a value: none."""
    raw_state: tuple[str, ...] | None = None
    """State dimensions that are not scaled; without a value: all are."""
    raw_actions: tuple[str, ...] | None = None
    """Action dimensions that are not scaled; without a value: all are."""
    joint_units: JointUnits | None = None
    """"pi-aloha" for openpi's pre-trained ALOHA policies."""
    vision_heads: int | None = None
    """Attention heads of a vision tower that is not So400m."""
    action_rope_base: float | None = None
    """Base of the rotary embedding of state and actions (open-pi-zero: 10000 or 100)."""
    time_max_period: float | None = None
    """open-pi-zero's time_max_period (10000 or 100)."""
    lora_alpha: float | None = None
    """Alpha of openpi's attention adapters of another rank than its own variants have."""
    lora_rslora: bool | None = None
    """Whether these scale by alpha / sqrt(rank)."""
    adapter: Path | None = None
    """Folder of a PEFT adapter to merge into SRC."""
    base: Path | None = None
    """Folder of the policy that the PEFT adapter in SRC was trained on."""
    fresh_expert: int | None = None
    """For a PaliGemma, which has no action expert: the seed of one with random weights."""
    json: bool = False
    """Print the card as JSON for programs."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    args = parse(Import, "import", arguments)
    from pizero.command.card import card, print_card
    from pizero.progress import stage
    from pizero.weights.importer import import_checkpoint

    with stage("import", "GB") as report:
        done = import_checkpoint(args.src, args.dst, _said(args), lambda a, b, note: report(a / 1e9, b / 1e9, note))
    if args.json:
        print(json.dumps({"family": done.family} | card(args.dst), indent=1))
        return 0
    print(f"family    {done.family}")
    print_card(args.dst)
    print(f"wrote {args.dst}; next: pizero show {args.dst}, pizero act {args.dst} --frame FILE")
    return 0


def _said(args: Import) -> dict[str, "Facts"]:
    from pizero.robot.catalogue import find_robot
    from pizero.weights.facts import Facts
    from pizero.weights.openpi_recipe import recipe_facts
    from pizero.weights.stats_file import read_stats

    plain = {field.name: getattr(args, field.name, None) for field in fields(Facts)}
    robot = None if args.robot is None else find_robot(args.robot)
    stats = None if args.stats is None else read_stats(args.stats)
    flags = Facts(**plain | {"robot": robot, "stats": stats})
    said = {} if args.recipe is None else {f"--recipe {args.recipe}": recipe_facts(args.recipe)}
    return said | {"the command line": flags}
