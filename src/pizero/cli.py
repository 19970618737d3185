"""The commands. Each is imported when it runs, so that `--help` answers at once."""

import difflib
import os
import sys
from collections.abc import Callable, Sequence

USAGE = """\
usage: pizero COMMAND ...

pi0, a vision-language-action policy: record demonstrations, train, evaluate in closed loop, act.

  demo                      all of it in one go, on the CPU, in a quarter of an hour
  collect TASK ...          demonstrations of a scripted expert, as a LeRobot v3.0 data set
  stats DATASET ...         statistics of the states and actions of one data set or several
  doctor DATASET            what will go wrong with a data set, by itself or beside a checkpoint
  train PRESET ...          train a policy
  eval CHECKPOINT|ws://...  count successes in a simulator and film them
  compare RUN RUN           two evaluations on their common episodes, with McNemar's test
  act CHECKPOINT ...        the action chunk for one frame
  serve CHECKPOINT          a policy over a websocket; openpi's clients connect to it too
  import SRC DST            a checkpoint of openpi, lerobot, open-pi-zero, transformers or a PaliGemma becomes ours
  export CHECKPOINT DST     ... and back, for openpi's server or lerobot
  merge ADAPTER DST         adapters and their base become one whole checkpoint
  show X                    what is in a data set, a checkpoint or a preset; `show tasks`, `show presets`,
                            `show robots` and `show recipes` list them

`pizero COMMAND --help` tells the options of a command.
"""


def main() -> None:
    """Run the command line: errors that a user can cause are one line on stderr and exit code 2."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        from pizero import __version__

        print(__version__)
        sys.exit(0)
    command, *rest = arguments
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.4)
        hint = f", did you mean {near[0]!r}?" if near else ""
        sys.exit(_fail(f"there is no command {command!r}{hint}; `pizero --help` lists them"))
    try:
        sys.exit(COMMANDS[command](rest))
    except (ValueError, OSError, FloatingPointError) as error:
        if "PIZERO_TRACEBACK" in os.environ:
            raise
        sys.exit(_fail(str(error)))
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _demo(arguments: Sequence[str]) -> int:
    from pizero.command.demo import main

    return main(arguments)


def _collect(arguments: Sequence[str]) -> int:
    from pizero.command.collect import main

    return main(arguments)


def _stats(arguments: Sequence[str]) -> int:
    from pizero.command.stats import main

    return main(arguments)


def _doctor(arguments: Sequence[str]) -> int:
    from pizero.command.doctor import main

    return main(arguments)


def _train(arguments: Sequence[str]) -> int:
    from pizero.command.train import main

    return main(arguments)


def _evaluate(arguments: Sequence[str]) -> int:
    from pizero.command.evaluate import main

    return main(arguments)


def _compare(arguments: Sequence[str]) -> int:
    from pizero.command.compare import main

    return main(arguments)


def _act(arguments: Sequence[str]) -> int:
    from pizero.command.act import main

    return main(arguments)


def _serve(arguments: Sequence[str]) -> int:
    from pizero.command.serve import main

    return main(arguments)


def _import(arguments: Sequence[str]) -> int:
    from pizero.command.import_checkpoint import main

    return main(arguments)


def _export(arguments: Sequence[str]) -> int:
    from pizero.command.export_checkpoint import main

    return main(arguments)


def _merge(arguments: Sequence[str]) -> int:
    from pizero.command.merge import main

    return main(arguments)


def _show(arguments: Sequence[str]) -> int:
    from pizero.command.show import main

    return main(arguments)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "demo": _demo,
    "collect": _collect,
    "stats": _stats,
    "doctor": _doctor,
    "train": _train,
    "eval": _evaluate,
    "compare": _compare,
    "act": _act,
    "serve": _serve,
    "import": _import,
    "export": _export,
    "merge": _merge,
    "show": _show,
}
