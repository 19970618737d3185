"""Runs of `pizero train` side by side, such as one recipe with 8-bit AdamW, LoRA and bf16 against float32:

    python bench/compare_runs.py runs/fp32 runs/adamw8bit runs/lora --output runs/compared.html

Writes a page with curves, prints a table and one JSON line last. A run's success rate is taken from its newest
`pizero eval RUN/last`.
"""

import argparse
import json
from pathlib import Path

from pizero.train.compare import COLUMNS, names, rows, summarise, write_comparison


def main() -> None:
    """Compare the runs named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--output", type=Path, default=Path("comparison.html"), help="the page to write")
    args = parser.parse_args()
    try:
        write_comparison(args.runs, args.output)
    except ValueError as error:
        parser.error(str(error))
    lines = [["run", *COLUMNS], *rows(args.runs)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    print(f"wrote {args.output}")
    print(json.dumps(dict(zip(names(args.runs), map(summarise, args.runs), strict=True))))


if __name__ == "__main__":
    main()
