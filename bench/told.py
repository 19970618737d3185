"""Where another task's instruction sends a policy, in LIBERO's spatial and object suites.

    python bench/told.py CHECKPOINT libero-spatial --episodes 10 --execute-steps 4
    python bench/told.py CHECKPOINT libero-object --other 3

The ten scenes of a suite have more in them than their own task needs. Each is played with the instruction of another
task whose thing is there too: in the spatial suite the second bowl, where the other task has its own; in the object
suite one of the five other objects (`--other`, in the scene's order). Which of the two comes to the plate, or into the
basket? The benchmark's initial states and step limits; an episode ends when one of them does. Prints a table and one
JSON line last.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
from machine import about

from pizero.command.policy import open_policy
from pizero.sim.env import Env, Step, find_task
from pizero.sim.libero.env import LiberoEnv
from pizero.sim.outcome import EpisodeResult
from pizero.sim.rollout import Simulator, evaluate

BOWL, PLATE, BASKET = "akita_black_bowl_2", "plate_1", "basket_1_contain_region"
OBJECTS = (
    "alphabet_soup_1", "cream_cheese_1", "salad_dressing_1", "bbq_sauce_1", "ketchup_1",
    "tomato_sauce_1", "butter_1", "milk_1", "chocolate_pudding_1", "orange_juice_1",
)  # fmt: skip
"""What the tasks of the object suite are about."""
OTHERS: dict[str, tuple[tuple[int, ...], ...]] = {
    "libero-spatial": ((1,), (6,), (8,), (9,), (9,), (3,), (7,), (9,), (1,), (7,)),
    "libero-object": (
        (2, 1, 7, 5, 6), (0, 7, 5, 6, 9), (4, 0, 1, 7, 5), (8, 4, 2, 0, 1), (3, 2, 0, 1, 7),
        (7, 6, 9, 8, 3), (5, 9, 8, 3, 4), (1, 5, 6, 9, 8), (9, 3, 4, 2, 0), (6, 8, 3, 4, 2),
    ),
}  # fmt: skip
"""For each scene, the tasks whose things are in it."""


class Told(LiberoEnv):
    """Solved when the other thing is where it was told to be; over when that or the scene's own is."""

    def __init__(self, name: str, goal: list[str]) -> None:
        super().__init__(find_task(name))
        self._goal = goal

    def step(self, action: np.ndarray) -> Step:
        """One control step."""
        done = super().step(action).done
        other = self._world.holds(self._goal)
        return Step(other, done or other)


def make_env(other: int, name: str) -> Env:
    """The scene of a task, for a worker."""
    suite, scene = name.split("/")
    if suite == "libero-spatial":
        return Told(name, ["on", BOWL, PLATE])
    return Told(name, ["in", OBJECTS[OTHERS[suite][int(scene)][other]], BASKET])


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="its folder")
    parser.add_argument("suite", choices=OTHERS)
    parser.add_argument("--other", type=int, default=0, help="which of the scene's other things, from 0")
    parser.add_argument("--episodes", type=int, default=10, help="of each scene")
    parser.add_argument("--execute-steps", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--device", default="auto", help='"cpu" (float32), "cuda" (bfloat16); "auto": cuda where there is one'
    )
    args = parser.parse_args()
    others = OTHERS[args.suite]
    if not 0 <= args.other < len(others[0]):
        parser.error(f"--other is {args.other}; {args.suite} has 0 ... {len(others[0]) - 1}")
    told = {f"{args.suite}/{scene}": f"{args.suite}/{there[args.other]}" for scene, there in enumerate(others)}
    with open_policy(args.checkpoint, args.device, compile=False) as opened:
        results = evaluate(
            opened.policy, list(told), args.episodes, args.execute_steps,
            workers=args.workers, prompt_of=told, simulator=Simulator(find_task, partial(make_env, args.other)),
        )  # fmt: skip
        line = {
            "benchmark": "told",
            "execute_steps": args.execute_steps,
            "other": args.other,
            "policy": dict(opened.identity),
        }
    rows = [row_of(task, [result for result in results if result.task == task]) for task in told]
    for row in rows:
        counts = "  ".join(f"{row[what]:>3} {what}" for what in ("other", "own", "neither", "errors"))
        print(f"{row['scene']:<18}{counts}  {row['told']}")
    line = {"benchmark": "told", "execute_steps": args.execute_steps, "other": args.other, "policy": identity}
    print(json.dumps(line | {"rows": rows, "checkpoint": Path(args.checkpoint).name} | about()))
    return 0


def row_of(task: str, results: list[EpisodeResult]) -> dict[str, str | int]:
    """Which thing came first. The scene's own did when an episode ended before its limit without success (at the very
    last step it cannot be told from neither)."""
    errors = sum(result.error is not None for result in results)
    other = sum(result.success for result in results)
    limit = find_task(task).max_steps
    own = sum(result.error is None and not result.success and result.steps < limit for result in results)
    neither = len(results) - other - own - errors
    told = next((result.prompt for result in results if result.prompt), "")
    return {"scene": task, "told": told, "other": other, "own": own, "neither": neither, "errors": errors}


if __name__ == "__main__":
    sys.exit(main())
