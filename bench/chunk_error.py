"""How far a policy's chunks are from recorded ones: on demonstrations that it was trained on, and on others.

    python bench/chunk_error.py CHECKPOINT TRAINED_ON OTHERS --episodes 8 --execute-steps 2

For each data set and prompt, the first episodes: the error is that of the sum of the first `--execute-steps` actions
(for actions that are shifts, of where they end), in the robot's units, at every second frame. A small error on the
first data set beside a large one on the second says that the policy has learned demonstrations by heart. Prints a table
and one JSON line last.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from machine import about

from pizero.command.policy import load_policy
from pizero.data.dataset import Dataset, open_dataset
from pizero.policy.pi0_policy import Pi0Policy
from pizero.progress import stage

STRIDE = 2
"""Of the frames that are looked at."""


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("datasets", type=Path, nargs="+")
    parser.add_argument("--episodes", type=int, default=8, help="of each prompt and data set")
    parser.add_argument("--execute-steps", type=int, default=2)
    args = parser.parse_args()
    policy = load_policy(args.checkpoint, "auto", compile=False)
    rows = [row for root in args.datasets for row in rows_of(policy, root, args.episodes, args.execute_steps)]
    print_table(rows, policy.embodiment.actions)
    line = {"benchmark": "chunk_error", "rows": rows, "execute_steps": args.execute_steps, "stride": STRIDE}
    print(json.dumps(line | {"actions": policy.embodiment.actions, "checkpoint": str(args.checkpoint)} | about()))
    return 0


def rows_of(policy: Pi0Policy, root: Path, episodes: int, steps: int) -> list[dict[str, Any]]:
    """One entry per prompt of a data set."""
    dataset = open_dataset(root)
    starts = defaultdict(list)
    for episode in dataset.episodes:
        starts[dataset.prompt(episode.start)].append(episode)
    rows: list[dict[str, Any]] = []
    with stage(root.name, "prompts") as report:
        for prompt, found in starts.items():
            frames = [
                frame
                for episode in found[:episodes]
                for frame in range(episode.start, episode.start + episode.length - steps, STRIDE)
            ]
            errors = np.abs(sums_apart(policy, dataset, frames, steps))
            quantiles = {f"quantile_{share}": np.quantile(errors, share, axis=0).tolist() for share in (0.5, 0.9)}
            rows.append({"dataset": root.name, "prompt": prompt, "frames": len(frames), **quantiles})
            report(len(rows), len(starts), prompt)
    return rows


def sums_apart(policy: Pi0Policy, dataset: Dataset, frames: list[int], steps: int) -> np.ndarray:
    """Planned less recorded, of the sum of the first actions (n, a)."""
    planned = policy.act_batch([dataset.frame(i) for i in frames], seeds=frames)
    recorded, _ = dataset.chunks(np.array(frames), steps)
    apart: np.ndarray = planned[:, :steps].sum(1) - recorded.sum(1)
    return apart


def print_table(rows: list[dict[str, Any]], actions: tuple[str, ...]) -> None:
    """For people: the median and the 90 % quantile of each dimension."""
    print("absolute error: median, 90 % quantile")
    print(f"{'data set':16} {'prompt':42} {'frames':>6} " + " ".join(f"{name:>15}" for name in actions))
    for each in rows:
        pairs = zip(each["quantile_0.5"], each["quantile_0.9"], strict=True)
        numbers = " ".join(f"{median:7.4f} {most:7.4f}" for median, most in pairs)
        print(f"{each['dataset']:16} {each['prompt'][:42]:42} {each['frames']:6} {numbers}")


if __name__ == "__main__":
    sys.exit(main())
