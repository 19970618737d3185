"""Latency of the sampler on this machine: host arrays in, action chunk out, batch 1, random weights.

    python bench/infer.py                       # the released 3.3 B model, set-ups a and c, plain and compiled
    python bench/infer.py --setup a --repeats 300

Prints a table and one JSON line last.
"""

import argparse
import json
import platform
import subprocess
import time
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch

from pizero.model.config import Pi0Config
from pizero.model.pi0 import Pi0
from pizero.runtime.graph import GraphSampler
from pizero.runtime.sampler import PlainSampler, Sampler
from pizero.types import Observation


@dataclass(frozen=True)
class Setup:
    """What one call works on."""

    views: int
    prompt_tokens: int
    horizon: int
    action_dim: int


SETUPS = {
    "a": Setup(views=1, prompt_tokens=20, horizon=4, action_dim=7),
    "b": Setup(views=2, prompt_tokens=48, horizon=50, action_dim=32),
    "c": Setup(views=3, prompt_tokens=48, horizon=50, action_dim=32),
}
MATMUL_FLOPS = 790e12
"""Dense bf16 matrix product measured on an NVIDIA H200, FLOP/s."""
MEMORY_BYTES = 4.3e12
"""Device-to-device copy measured on an NVIDIA H200, bytes/s read plus written."""


def floor_ms(config: Pi0Config, setup: Setup, num_steps: int) -> float:
    """Time below which no bf16 implementation can go: per stage the larger of FLOPs / rate and bytes / bandwidth.

    Counts matrix products and attention of what pi0 uses: of the last VLM layer only keys and values.
    """
    v, g, a = config.vision, config.vlm, config.action
    patches = setup.views * v.num_patches
    prefix = patches + setup.prompt_tokens
    vision_weights = v.depth * (4 * v.width**2 + 2 * v.width * v.mlp_dim) + v.width * g.width + 588 * v.width
    vision_flops = 2 * patches * (vision_weights + v.depth * 2 * v.num_patches * v.width)
    q, kv = g.num_heads * g.head_dim, 2 * g.num_kv_heads * g.head_dim
    vlm_layer = g.width * (2 * q + kv) + 3 * g.width * g.mlp_dim
    vlm_weights = (g.depth - 1) * vlm_layer + g.width * kv
    vlm_flops = 2 * prefix * (vlm_weights + (g.depth - 1) * 2 * prefix * q)
    rows, keys = setup.horizon, prefix + 1 + setup.horizon
    action_weights = a.depth * (a.width * (2 * q + kv) + 3 * a.width * a.mlp_dim) + 3 * a.width**2
    action_flops = num_steps * 2 * rows * (action_weights + a.depth * 2 * keys * q)
    cache = a.depth * kv * prefix
    stages = (
        (vision_flops, 2 * vision_weights),
        (vlm_flops, 2 * vlm_weights + 2 * cache),
        (action_flops, num_steps * 2 * (action_weights + cache)),
    )
    return 1e3 * sum(max(flops / MATMUL_FLOPS, size / MEMORY_BYTES) for flops, size in stages)


def build(config: Pi0Config) -> Pi0:
    """The model with random weights in bfloat16, made on the device."""
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model = Pi0(config)
        torch.set_default_dtype(torch.float32)
    model.init_weights(torch.Generator("cuda").manual_seed(0))
    torch.nn.init.normal_(model.heads.action_out_proj.weight, std=config.action.width**-0.5)
    return model.cast(torch.bfloat16).eval().requires_grad_(False)


def host_inputs(config: Pi0Config, setup: Setup, seed: int) -> tuple[Observation, torch.Tensor]:
    """A random observation and noise as they come from a robot: pictures, token ids, state, on the host."""
    rng = np.random.default_rng(seed)
    size = config.vision.image_size
    images = rng.integers(0, 256, (1, setup.views, size, size, 3), dtype=np.uint8)
    observation = Observation(
        images=torch.from_numpy(images).permute(0, 1, 4, 2, 3).float() / 127.5 - 1,
        prompt=torch.from_numpy(rng.integers(0, config.vocab_size, (1, setup.prompt_tokens))),
        state=torch.from_numpy(rng.standard_normal((1, config.state_dim), dtype=np.float32)),
    )
    noise = torch.from_numpy(rng.standard_normal((1, setup.horizon, setup.action_dim), dtype=np.float32))
    return observation, noise


def measure(sample: Sampler, inputs: list, repeats: int) -> dict[str, float]:
    """Wall clock per call in milliseconds; every call starts from host arrays and ends with the actions on the host."""
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    sample(*inputs[0])
    first = time.perf_counter() - started
    for i in range(10):
        sample(*inputs[i % len(inputs)])
    times = []
    for i in range(repeats):
        torch.cuda.synchronize()
        started = time.perf_counter()
        sample(*inputs[i % len(inputs)])
        times.append(1e3 * (time.perf_counter() - started))
    return {
        "p50_ms": float(np.percentile(times, 50)),
        "p99_ms": float(np.percentile(times, 99)),
        "min_ms": float(np.min(times)),
        "first_action_s": first,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def measure_setup(name: str, num_steps: int, repeats: int) -> list[dict]:
    """Rows of the plain and the compiled sampler in one set-up."""
    setup = SETUPS[name]
    config = Pi0Config(action_dim=setup.action_dim, horizon=setup.horizon)
    common = {"setup": name, "floor_ms": floor_ms(config, setup, num_steps)}
    inputs = [host_inputs(config, setup, seed) for seed in range(4)]
    model = build(config)
    plain = PlainSampler(model, num_steps)
    reference = [plain(*pair) for pair in inputs]
    rows = [{**common, "sampler": "plain", **measure(plain, inputs, min(repeats, 50))}]
    fast = GraphSampler(model, num_steps)
    row = {**common, "sampler": "compiled", **measure(fast, inputs, repeats)}
    row["error"] = max(
        float((fast(*pair) - ref).norm() / ref.norm()) for pair, ref in zip(inputs, reference, strict=True)
    )
    return [*rows, row]


def commit() -> str:
    """The commit this ran on, or "unknown" outside a checkout."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def main() -> None:
    """Measure every set-up asked for, plain and compiled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", choices=sorted(SETUPS), nargs="*", default=["a", "c"])
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--num-steps", type=int, default=10)
    parser.add_argument("--commit", default=None, help="of this code, where it is no checkout")
    args = parser.parse_args()
    rows = []
    for name in args.setup:  # each in a process of its own: the peak memory of one must not hold another's network
        with get_context("spawn").Pool(1) as pool:
            rows += pool.apply(measure_setup, (name, args.num_steps, args.repeats))
    columns = ("set-up", "sampler", "p50 ms", "p99 ms", "floor ms", "first s", "peak GiB", "rel. error")
    print("".join(f"{column:>11}" for column in columns))
    for r in rows:
        numbers = (r["p50_ms"], r["p99_ms"], r["floor_ms"], r["first_action_s"], r["peak_gib"])
        error = f"{r['error']:11.1e}" if "error" in r else f"{'-':>11}"
        print(f"{r['setup']:>11}{r['sampler']:>11}" + "".join(f"{x:11.2f}" for x in numbers) + error)
    about = {
        "program": "bench/infer.py",
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "commit": args.commit or commit(),
        "num_steps": args.num_steps,
        "repeats": args.repeats,
        "rows": rows,
    }
    print(json.dumps(about))


if __name__ == "__main__":
    main()
