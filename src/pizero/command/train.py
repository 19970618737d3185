"""`pizero train`: a preset, then any field of its config."""

import os
from collections.abc import Sequence

from pizero.command.parse import parse
from pizero.train.preset import make_preset, presets


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: pizero train PRESET [--FIELD VALUE ...]\n\npresets:")
        for name, preset in presets().items():
            print(f"  {name:10}{(preset.__doc__ or '').splitlines()[0]}")
        print("\n`pizero train PRESET --help` lists the fields and the preset's values.")
        return 0 if arguments else 2
    name, *rest = arguments
    config = parse(type(default := make_preset(name)), f"train {name}", rest, default)
    if config.dry_run:
        from pizero.command.predict import predict

        if os.environ.get("RANK", "0") == "0":  # of several processes one prints
            predict(config, f"pizero train {name}")
        return 0
    from pizero.train.loop import train as run

    result = run(config)
    if result.first:  # of several processes one prints
        how = "interrupted" if result.exit_code else "done"
        print(f"{how} at step {result.step}, loss {result.loss:.4f}: {result.checkpoint}")
    return result.exit_code
