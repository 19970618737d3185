"""Whether a policy does what it is told, in LIBERO's spatial and object suites.

    python bench/told.py CHECKPOINT libero-spatial --episodes 10 --execute-steps 4

The ten scenes of a suite have more in them than their own task needs. Each is played with the instruction of another
task whose thing is there too: in the spatial suite the second bowl, where the other task has its own; in the object
suite the first of the other objects. Which of the two comes to the plate, or into the basket? The benchmark's initial
states and step limits; an episode ends when one of them does. Prints a table and one JSON line last.
"""

import argparse
import json
import sys
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
TOLD = {"libero-spatial": (1, 6, 8, 9, 9, 3, 7, 9, 1, 7), "libero-object": (2, 0, 4, 8, 3, 7, 5, 1, 9, 6)}
"""For each scene, the task whose instruction is given."""


class Told(LiberoEnv):
    """Solved when the other thing is where it was told to be; over when that or the scene's own is."""

    def step(self, action: np.ndarray) -> Step:
        """One control step."""
        done = super().step(action).done
        other = bool(self._world.env._eval_predicate(other_goal(self.task.name)))
        return Step(other, done or other)


def other_goal(name: str) -> list[str]:
    """What holds when a scene's other task is solved."""
    suite, scene = name.split("/")
    return ["on", BOWL, PLATE] if suite == "libero-spatial" else ["in", OBJECTS[TOLD[suite][int(scene)]], BASKET]


def make_env(name: str) -> Env:
    """The scene of a task, for a worker."""
    return Told(find_task(name))


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="its folder")
    parser.add_argument("suite", choices=TOLD)
    parser.add_argument("--episodes", type=int, default=10, help="of each scene")
    parser.add_argument("--execute-steps", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--device", default="auto", help='"cpu" (float32), "cuda" (bfloat16); "auto": cuda where there is one'
    )
    args = parser.parse_args()
    told = {f"{args.suite}/{scene}": f"{args.suite}/{other}" for scene, other in enumerate(TOLD[args.suite])}
    with open_policy(args.checkpoint, args.device, compile=False) as opened:
        results = evaluate(
            opened.policy, list(told), args.episodes, args.execute_steps,
            workers=args.workers, prompt_of=told, simulator=Simulator(find_task, make_env),
        )  # fmt: skip
        line = {"benchmark": "told", "execute_steps": args.execute_steps, "policy": dict(opened.identity)}
    rows = [row_of(task, [result for result in results if result.task == task]) for task in told]
    for row in rows:
        counts = "  ".join(f"{row[what]:>3} {what}" for what in ("other", "own", "neither", "errors"))
        print(f"{row['scene']:<18}{counts}  {row['told']}")
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
