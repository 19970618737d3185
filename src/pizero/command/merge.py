"""`pizero merge`: adapters and their base become one whole checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from pizero.command.parse import parse


@dataclass(frozen=True)
class Merge:
    """Add the adapters that a run with --tune lora or qlora trained to their base: a checkpoint that needs neither.

    What reads a checkpoint takes an adapter folder too, as long as the base stays where it was.
    """

    adapter: Positional[Path]
    """Folder of the adapters."""
    output: Positional[Path]
    """Folder to write; it must not exist."""
    base: Path | None = None
    """Folder of the checkpoint that they were trained on. None: where it was then."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights, but the heads, which stay float32. Only float32 is exact."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    args = parse(Merge, "merge", arguments)
    import torch

    from pizero.progress import stage
    from pizero.weights.adapter import merge_adapter

    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[args.dtype]
    with stage("merge", "GB") as report:
        merge_adapter(args.adapter, args.output, args.base, dtype, lambda a, b, note: report(a / 1e9, b / 1e9, note))
    print(f"wrote {args.output}")
    return 0
