"""Time and memory of a training step on this machine: the released 3.3 B model, random weights and data.

    python bench/train_step.py                                   # full fine-tune, set-ups a, b and c
    python bench/train_step.py --recipe full lora expert --setup a
    python bench/train_step.py --recipe full --setup a --batch 32 64 96 --eager
    python bench/train_step.py --memory                          # the memory table: one recipe for each card

It runs `pizero.train.step.train_step`, the very step that training runs: noise and flow times, loss, backward pass,
norm and clipping of the gradient, AdamW, the average of the weights where the recipe has one. A row is one process.
Prints a table and one JSON line last.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from pizero.data.batch import Batch
from pizero.model.config import Pi0Config
from pizero.train.config import LoraConfig, OptimConfig, TrainConfig
from pizero.train.flops import flops_per_sample
from pizero.train.initial import make_model
from pizero.train.state import wrap
from pizero.train.step import train_step

MATMUL_FLOPS = 790e12
"""Dense bf16 matrix product measured on an NVIDIA H200, FLOP/s."""
WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Setup:
    """What one sample is."""

    views: int
    prompt_tokens: int
    horizon: int
    action_dim: int
    batch: int
    """Default observations in a step, of a full fine-tune on a card of 141 GB."""


SETUPS = {
    "a": Setup(views=1, prompt_tokens=20, horizon=4, action_dim=7, batch=96),
    "b": Setup(views=2, prompt_tokens=48, horizon=50, action_dim=32, batch=48),
    "c": Setup(views=3, prompt_tokens=48, horizon=50, action_dim=32, batch=32),
}
PLAIN = TrainConfig(name="bench", output=Path("bench"), optim=OptimConfig(ema_decay=None), steps=10_000)
EMA = OptimConfig(ema_decay=0.99)
EIGHT_BIT = OptimConfig(kind="adamw8bit", ema_decay=None)
INIT = Path("random weights in place of a checkpoint")
RECIPES = {
    "full": PLAIN,
    "full + EMA": replace(PLAIN, optim=EMA),
    "full, 8-bit": replace(PLAIN, optim=EIGHT_BIT),
    "full, 8-bit, recompute": replace(PLAIN, optim=EIGHT_BIT, recompute=True),
    "full, bf16-pure": replace(PLAIN, precision="bf16-pure"),
    "full, bf16-pure, 8-bit": replace(PLAIN, precision="bf16-pure", optim=EIGHT_BIT),
    "full, bf16-pure, 8-bit, recompute": replace(PLAIN, precision="bf16-pure", optim=EIGHT_BIT, recompute=True),
    "expert": replace(PLAIN, tune="expert", init=INIT),
    "lora": replace(PLAIN, tune="lora", init=INIT),
    "lora, recompute": replace(PLAIN, tune="lora", init=INIT, recompute=True),
    "lora + vision": replace(PLAIN, tune="lora", init=INIT, lora=LoraConfig(vision=True)),
    "qlora": replace(PLAIN, tune="qlora", init=INIT),
    "qlora, recompute": replace(PLAIN, tune="qlora", init=INIT, recompute=True),
}
MEMORY_TABLE = (
    ("qlora, recompute", "a", 4, 16),
    ("lora, recompute", "a", 4, 16),
    ("lora", "a", 4, 16),
    ("expert", "a", 16, 16),
    ("full, bf16-pure, 8-bit, recompute", "a", 16, 24),
    ("full, bf16-pure, 8-bit", "a", 16, 48),
    ("full, 8-bit, recompute", "a", 16, 48),
    ("full, 8-bit", "a", 16, 80),
    ("full", "a", 16, 80),
)
"""(recipe, set-up, batch size, card in GB)."""
CARD_SHARE = 0.95
"""Part of a card's memory that is allowed: the rest is CUDA's own."""


@dataclass(frozen=True)
class Case:
    """One row."""

    recipe: str
    setup: str
    batch: int
    card_gb: int | None
    """Memory the process may use; None: all."""
    eager: bool
    steps: int


def random_batch(config: TrainConfig, setup: Setup) -> Batch:
    """A batch as the loader gives it."""
    rng, size, rows = np.random.default_rng(0), config.model.vision.image_size, config.batch_size
    shape = (rows, config.model.horizon, config.model.action_dim)
    return Batch(
        images=torch.from_numpy(rng.integers(0, 256, (rows, setup.views, size, size, 3), dtype=np.uint8)),
        image_mask=None,
        prompt=torch.from_numpy(rng.integers(0, config.model.vocab_size, (rows, setup.prompt_tokens))),
        prompt_mask=None,
        state=torch.from_numpy(rng.standard_normal((rows, config.model.state_dim), dtype=np.float32)),
        values=torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)),
        action_mask=torch.ones(shape, dtype=torch.bool),
        total=int(np.prod(shape)),
        skipped=0,
        step=0,
    )


def measure(case: Case) -> dict:
    """The numbers of one case, or the error that ended it."""
    torch.cuda.init()
    total = torch.cuda.get_device_properties(0).total_memory
    if case.card_gb is not None and case.card_gb * 1e9 < total:
        torch.cuda.set_per_process_memory_fraction(CARD_SHARE * case.card_gb * 1e9 / total)
    setup = SETUPS[case.setup]
    config = replace(
        RECIPES[case.recipe],
        model=Pi0Config(action_dim=setup.action_dim, horizon=setup.horizon),
        batch_size=case.batch,
        compile=not case.eager,
        device="cuda",
    )
    try:
        return {**vars(case), **timed(config, setup, case.steps)}
    except torch.OutOfMemoryError:
        return {**vars(case), "error": "out of memory"}


def timed(config: TrainConfig, setup: Setup, steps: int) -> dict[str, float]:
    """Median time of a step, peak memory, and the time until the first step was done."""
    started = time.perf_counter()
    model = make_model(config, torch.device("cuda"))
    torch.nn.init.normal_(
        model.heads.action_out_proj.weight, std=0.02
    )  # zeros would make zero gradients, and be faster
    state = wrap(config, torch.device("cuda"), model)
    del model
    batch = random_batch(config, setup).pin()
    built = time.perf_counter()
    train_step(state, batch)
    first = time.perf_counter() - built
    for _ in range(WARM_UP_STEPS - 1):
        train_step(state, batch)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(steps):
        begun = time.perf_counter()
        result = train_step(state, batch)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    median = float(np.median(times))
    useful = flops_per_sample(config.model, setup.views, setup.prompt_tokens, config.draws, config.tune, config.lora)
    assert np.isfinite(result.loss), "a bench of NaNs"
    return {
        "samples_per_s": config.batch_size / median,
        "step_ms": 1e3 * median,
        "min_ms": 1e3 * min(times),
        "max_ms": 1e3 * max(times),
        "floor_samples_per_s": MATMUL_FLOPS / useful,
        "mfu": config.batch_size / median * useful / MATMUL_FLOPS,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
        "build_s": built - started,
        "first_step_s": first,
    }


def cases(args: argparse.Namespace) -> list[Case]:
    """What the arguments ask for."""
    if args.memory:
        return [Case(r, s, b, card, args.eager, args.steps) for r, s, b, card in MEMORY_TABLE]
    return [
        Case(recipe, setup, batch, None, args.eager, args.steps)
        for recipe in args.recipe
        for setup in args.setup
        for batch in (args.batch or [SETUPS[setup].batch])
    ]


def print_row(row: dict) -> None:
    """One line of the table."""
    card = "-" if row["card_gb"] is None else str(row["card_gb"])
    head = f"{row['recipe']:<34}{row['setup']:>3}{row['batch']:>6}{card:>6}"
    if "error" in row:
        print(f"{head}  {row['error']}", flush=True)
        return
    numbers = ("samples_per_s", "floor_samples_per_s", "mfu", "step_ms", "peak_gb", "reserved_gb", "first_step_s")
    print(head + "".join(f"{row[name]:>10.{2 if name == 'mfu' else 1}f}" for name in numbers), flush=True)


def commit() -> str:
    """The commit this ran on, or "unknown" outside a checkout."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def main() -> None:
    """Measure every case asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", choices=sorted(SETUPS), nargs="*", default=["a", "b", "c"])
    parser.add_argument("--recipe", choices=list(RECIPES), nargs="*", default=["full"])
    parser.add_argument("--batch", type=int, nargs="*", help="observations in a step; default: what fits 141 GB")
    parser.add_argument("--memory", action="store_true", help="the memory table in place of --recipe and --setup")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--commit", default=None, help="of this code, where it is no checkout")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: a CUDA device is needed, torch sees none")
    names = ("samples/s", "at floor", "MFU", "step ms", "peak GB", "reserved", "first s")
    print(f"{'recipe':<34}{'':>3}{'batch':>6}{'card':>6}" + "".join(f"{name:>10}" for name in names), flush=True)
    rows = []
    for case in cases(args):
        with get_context("spawn").Pool(1) as pool:  # each in a process of its own: memory and compiled code start fresh
            rows.append(pool.apply(measure, (case,)))
        print_row(rows[-1])
    about = {
        "program": "bench/train_step.py",
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "commit": args.commit or commit(),
        "matmul_flops": MATMUL_FLOPS,
        "rows": rows,
    }
    print(json.dumps(about))


if __name__ == "__main__":
    main()
