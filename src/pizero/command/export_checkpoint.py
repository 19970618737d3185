"""`pizero export`: one of our checkpoints in the format of another program."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from pizero.command.parse import parse


@dataclass(frozen=True)
class Export:
    """Write a checkpoint as openpi's server (PyTorch) or lerobot read it, or as one plain safetensors file.

    What the other format cannot say is refused by name.
    """

    checkpoint: Positional[Path]
    """Folder of a checkpoint."""
    output: Positional[Path]
    """Folder, or file with `--format safetensors`, to write; it must not exist."""
    format: Literal["openpi", "lerobot", "safetensors"]
    """Whose format."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    args = parse(Export, "export", arguments)
    from pizero.progress import stage
    from pizero.weights import export, export_lerobot

    write = {
        "openpi": export.export_openpi,
        "lerobot": export_lerobot.export_lerobot,
        "safetensors": export.export_safetensors,
    }[args.format]
    with stage("export", "GB") as report:
        remarks = write(args.checkpoint, args.output, lambda a, b, note: report(a / 1e9, b / 1e9, note))
    for remark in remarks:
        print(f"note: {remark}")
    print(f"wrote {args.output}")
    return 0
