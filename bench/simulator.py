"""What the simulators cost: making an environment, resetting, stepping, rendering, memory.

    python bench/simulator.py metaworld/window-open simpler/carrot-on-plate libero-object/0 --steps 40
    python bench/simulator.py libero-object/0 --processes 16       # what is left of it when all cores are busy

Each task is measured in a process of its own, one after the other; with --processes N in N of them at a time (the
table shows their median, and the steps a second of all together). Steps are those of the expert; its own time is not
counted. A frame is what a policy sees: all cameras of the robot. Prints a table and one JSON line last.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from machine import about

from pizero.sim.assets import use_assets
from pizero.sim.env import expand_tasks, make_env, train_seed
from pizero.sim.workers import Died, Workers

Numbers = dict[str, float]
COLUMNS = {
    "make_s": "make s",
    "reset_ms": "reset ms",
    "step_ms": "step ms",
    "frame_ms": "frame ms",
    "expert_ms": "expert ms",
    "memory_mb": "MB",
}


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", help="names of tasks, or of groups such as libero-object")
    parser.add_argument("--steps", type=int, default=40, help="measured, with a frame each")
    parser.add_argument("--resets", type=int, default=3, help="after the first")
    parser.add_argument("--processes", type=int, default=1, help="at a time")
    parser.add_argument("--assets", type=Path)
    args = parser.parse_args()
    if args.assets:
        use_assets(args.assets)
    rows: list[dict[str, object]] = []
    print(f"{'task':30}" + "".join(f"{title:>11}" for title in COLUMNS.values()) + f"{'steps/s':>11}")
    for task in expand_tasks(args.tasks):
        rows.append(measure_task(task, args.processes, args.steps, args.resets))
        print(f"{task:30}" + "".join(f"{rows[-1][name]:11.1f}" for name in [*COLUMNS, "steps_per_s"]), flush=True)
    line = {"benchmark": "simulator", "rows": rows, "steps": args.steps, "processes": args.processes}
    print(json.dumps(line | about()))
    return 0


def measure_task(task: str, processes: int, steps: int, resets: int) -> dict[str, object]:
    """Medians over the processes. Raises RuntimeError when one of them fails."""
    with Workers(processes, serve) as pool:  # new processes: memory is theirs alone
        for worker in range(processes):
            pool.send(worker, (task, steps, resets, worker))
        measured: list[Numbers] = []
        for _, answer in pool.answers():
            if isinstance(answer, Died | str):
                raise RuntimeError(f"{task}: {answer.reason if isinstance(answer, Died) else answer}")
            measured.append(answer)
    medians = {name: statistics.median(numbers[name] for numbers in measured) for name in measured[0]}
    together = sum(1e3 / (numbers["step_ms"] + numbers["frame_ms"] + numbers["expert_ms"]) for numbers in measured)
    return {"task": task} | medians | {"steps_per_s": together}


def serve(pipe: Connection) -> None:
    """In a worker: measures one task."""
    task, steps, resets, worker = pipe.recv()
    try:
        pipe.send(measure(task, steps, resets, first_seed=100 * worker))
    except Exception as error:  # shown by the main process
        pipe.send(f"{type(error).__name__}: {error}")


def measure(task: str, steps: int, resets: int, first_seed: int) -> Numbers:
    """Seconds and milliseconds of one process; the first frame, which loads shaders and textures, counts as making."""
    started = time.perf_counter()
    env = make_env(task)
    env.reset(train_seed(first_seed))
    env.frame()
    made = time.perf_counter() - started
    started = time.perf_counter()
    for i in range(resets):
        env.reset(train_seed(first_seed + 1 + i))
    reset = (time.perf_counter() - started) / max(resets, 1)
    spent = {"step": [], "frame": [], "expert": []}
    for _ in range(steps):
        started = time.perf_counter()
        env.frame()
        seen = time.perf_counter()
        action = env.expert_action()
        decided = time.perf_counter()
        env.step(action)
        spent["frame"].append(seen - started)
        spent["expert"].append(decided - seen)
        spent["step"].append(time.perf_counter() - decided)
    memory_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux gives kilobytes, macOS bytes
    memory_mb = memory_kb / (1024**2 if sys.platform == "darwin" else 1024)
    env.close()
    times = {f"{name}_ms": 1e3 * statistics.mean(values) for name, values in spent.items()}
    return {"make_s": made, "reset_ms": 1e3 * reset} | times | {"memory_mb": memory_mb}


if __name__ == "__main__":
    sys.exit(main())
