"""Whether a policy does what it is told: to take the other bowl, in LIBERO's spatial suite.

    python bench/other_bowl.py CHECKPOINT --episodes 10 --execute-steps 4

Each of the ten scenes has two black bowls, and the second stands where the instruction of another task has its own: on
the stove, beside the ramekin. Told that instruction, which bowl comes to the plate? The benchmark's initial states; an
episode ends when one of them does. Prints a table and one JSON line last.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from machine import about

from pizero.command.policy import load_policy
from pizero.sim.env import Env, Step, find_task
from pizero.sim.libero.env import LiberoEnv
from pizero.sim.outcome import EpisodeResult
from pizero.sim.rollout import Simulator, evaluate

SUITE = "libero-spatial"
TOLD = (1, 6, 8, 9, 9, 3, 7, 9, 1, 7)
"""For each scene, the task whose bowl stands where its second one does."""
OTHER = [["on", "akita_black_bowl_2", "plate_1"]]


class OtherBowl(LiberoEnv):
    """Solved when the second bowl is on the plate; over when either is."""

    def step(self, action: np.ndarray) -> Step:
        """One control step."""
        done = super().step(action).done
        return Step(self._holds(OTHER), done or self._holds(OTHER))

    def _holds(self, goal: list[list[str]]) -> bool:
        problem = self._world.env.parsed_problem
        before, problem["goal_state"] = problem["goal_state"], goal
        holds = self._world.success()
        problem["goal_state"] = before
        return holds


def make_env(name: str) -> Env:
    """The scene of a task, for a worker."""
    return OtherBowl(find_task(name))


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--episodes", type=int, default=10, help="of each scene")
    parser.add_argument("--execute-steps", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    tasks = [f"{SUITE}/{scene}" for scene in range(len(TOLD))]
    told = {task: f"{SUITE}/{other}" for task, other in zip(tasks, TOLD, strict=True)}
    results = evaluate(
        load_policy(args.checkpoint, "auto", compile=False), tasks, args.episodes, args.execute_steps,
        workers=args.workers, prompt_of=told, simulator=Simulator(find_task, make_env),
    )  # fmt: skip
    rows = [row_of(task, [result for result in results if result.task == task]) for task in tasks]
    for row in rows:
        counts = "  ".join(f"{row[bowl]:>3} {bowl}" for bowl in ("other", "own", "neither"))
        print(f"{row['scene']:<18}{counts}  {row['told']}")
    line = {"benchmark": "other_bowl", "rows": rows, "execute_steps": args.execute_steps}
    print(json.dumps(line | {"checkpoint": str(args.checkpoint)} | about()))
    return 0


def row_of(task: str, results: list[EpisodeResult]) -> dict[str, str | int]:
    """Which bowl came to the plate; the scene's own one did when the episode ended early, but not with success."""
    errors = [result.error for result in results if result.error]
    if errors:
        raise RuntimeError(f"{task}: {errors[0]}")
    other = sum(result.success for result in results)
    own = sum(result.steps < find_task(task).max_steps and not result.success for result in results)
    return {
        "scene": task,
        "told": results[0].prompt,
        "other": other,
        "own": own,
        "neither": len(results) - other - own,
    }


if __name__ == "__main__":
    sys.exit(main())
