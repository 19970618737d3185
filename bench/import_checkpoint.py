"""Time and memory of importing a full-size checkpoint: python bench/import_checkpoint.py [--shards 3] [--layout ...]

Writes a checkpoint of random weights with the sizes of the released model (3.2 B parameters, float32) into a scratch
folder, imports it with `pizero import` in a process of its own, and measures that process: wall time, and the largest
resident memory, which counts the pages of files that are mapped. Bar: 1.3 x the largest shard + 2 GB.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pizero import __version__
from pizero.data.prompt import train_tokenizer
from pizero.model.config import Pi0Config
from pizero.model.pi0 import Pi0
from pizero.weights.open_pi_zero import their_key
from pizero.weights.openpi import EMBEDDING, TIED, openpi_key
from pizero.weights.orbax_recipes import all_recipes
from pizero.weights.writer import write_safetensors

GB = 1e9
POLL_S = 0.1


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layout", choices=tuple(WRITE), default="openpi")
    parser.add_argument("--shards", type=int, default=1, help="of openpi's layout")
    parser.add_argument("--scratch", type=Path, help="a folder with 30 GB of room; default: a temporary one")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=args.scratch))
    try:
        row = measure(folder, args.layout, args.shards)
    finally:
        shutil.rmtree(folder)
    print(f"{'layout':>14} {'shards':>6} {'GB':>6} {'s':>7} {'GB/s':>6} {'peak GB':>8} {'bar GB':>7}")
    print(
        f"{row['layout']:>14} {row['shards']:6} {row['gigabytes']:6.1f} {row['seconds']:7.1f} "
        f"{row['gigabytes'] / row['seconds']:6.2f} {row['peak_gb']:8.2f} {row['bar_gb']:7.2f}"
    )
    print(json.dumps(row))
    return 0 if row["peak_gb"] <= row["bar_gb"] else 1


def measure(folder: Path, layout: str, shards: int) -> dict[str, object]:
    """Write the checkpoint, import it, and say how it went."""
    source = folder / "source"
    source.mkdir()
    with torch.device("meta"):
        weights = Pi0(Pi0Config()).state_dict()
    files = WRITE[layout](source, weights, shards)
    (folder / "tokenizer.model").write_bytes(train_tokenizer(["pick up the block"], 300))
    (folder / "stats.json").write_text(json.dumps(stats()))
    command = [sys.executable, "-m", "pizero", "import", str(files[0] if layout == "open-pi-zero" else source)]
    command += [str(folder / "imported"), "--tokenizer", str(folder / "tokenizer.model")]
    command += [
        "--stats",
        str(folder / "stats.json"),
        "--recipe",
        "bridge" if layout == "open-pi-zero" else "pi0_libero",
    ]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, peak_bytes(process.pid))
        time.sleep(POLL_S)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"pizero import ended with {process.returncode}")
    sizes = [file.stat().st_size for file in files]
    largest = (sum(sizes) if layout == "openpi-jax" else max(sizes)) / GB  # files of a database belong together
    return {
        "benchmark": "import_checkpoint",
        "layout": layout,
        "shards": shards,
        "gigabytes": sum(sizes) / GB,
        "seconds": seconds,
        "peak_gb": peak / GB,
        "bar_gb": 1.3 * largest + 2,
        "processors": os.cpu_count(),
        "device": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "pizero": __version__,
        "commit": commit(),
    }


def write_openpi(folder: Path, weights: Mapping[str, Tensor], shards: int) -> list[Path]:
    """openpi's layout, in one file or in shards with their index."""
    shapes = {openpi_key(name).replace(EMBEDDING, TIED): tuple(x.shape) for name, x in weights.items()}
    keys = sorted(shapes)
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    parts = {name: keys[i * len(keys) // shards : (i + 1) * len(keys) // shards] for i, name in enumerate(names)}
    if shards == 1:
        parts = {"model.safetensors": keys}
    else:
        index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name, part in parts.items():
        tensors = {key: (torch.float32, shapes[key]) for key in part}
        write_safetensors(folder / name, tensors, lambda key: random(shapes[key]))
    return [folder / name for name in parts]


def write_open_pi_zero(folder: Path, weights: Mapping[str, Tensor], shards: int) -> list[Path]:
    """The file of open-pi-zero's trainer."""
    state = {"_orig_mod." + their_key(name): random(tuple(x.shape)) for name, x in weights.items()}
    torch.save({"cnt_update": 1, "model": state}, folder / "step1.pt")
    return [folder / "step1.pt"]


def write_openpi_jax(folder: Path, weights: Mapping[str, Tensor], shards: int) -> list[Path]:
    """openpi's arrays as orbax lays them out: one OCDBT database, stacked layers in one chunk each."""
    import tensorstore

    config = replace(Pi0Config(), euler_grid="openpi")
    shapes = {key: shape for recipe in all_recipes(config, {}).values() for key, shape in recipe.expects.items()}
    params = folder / "params"
    params.mkdir()
    base = {"driver": "file", "path": f"{params}/"}
    tree = {}
    for key, shape in shapes.items():
        parts = ["params", *key.split("/")]
        tree[str(tuple(parts))] = {
            "key_metadata": [{"key": part, "key_type": 2} for part in parts],
            "value_metadata": {},
        }
        spec = {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": base, "path": ".".join(parts) + "/"}}
        metadata = {
            "dtype": "<f4",
            "shape": list(shape),
            "chunks": list(shape),
            "compressor": {"id": "zstd", "level": 1},
        }
        array = tensorstore.open(spec | {"metadata": metadata}, create=True).result()
        array.write(random(shape).numpy()).result()
    (params / "_METADATA").write_text(json.dumps({"tree_metadata": tree, "use_zarr3": False}))
    return [file for file in params.rglob("*") if file.is_file()]


def random(shape: tuple[int, ...]) -> Tensor:
    """Numbers that cannot be compressed."""
    return torch.randn(shape)


WRITE = {"openpi": write_openpi, "openpi-jax": write_openpi_jax, "open-pi-zero": write_open_pi_zero}


def stats() -> dict[str, object]:
    """Statistics of more dimensions than any robot has."""
    one = {"mean": [0.0] * 32, "std": [1.0] * 32, "q01": [-1.0] * 32, "q99": [1.0] * 32}
    return {"state": one, "actions": one}


def peak_bytes(pid: int) -> int:
    """Largest resident memory of a process so far."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def commit() -> str:
    """The commit that was measured."""
    run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
