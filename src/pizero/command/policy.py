"""A policy from the path of its checkpoint, or from the address where it is served."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pizero.policy.pi0_policy import Pi0Policy
from pizero.robot.catalogue import find_robot
from pizero.sim.rollout import ChunkPolicy
from pizero.weights.adapter_source import file_sha256
from pizero.weights.checkpoint import load_checkpoint

NUM_STEPS = 10
"""Euler steps per chunk, where nobody says otherwise."""


def load_policy(
    checkpoint: Path, device: str = "auto", num_steps: int = NUM_STEPS, robot: str | None = None, compile: bool = True
) -> Pi0Policy:
    """The policy of a checkpoint: bf16 and, unless `compile` is False, compiled on a CUDA device, float32 on the CPU.

    `robot` is one of those that it was trained on; None: the first.
    """
    device = _device(device)
    return Pi0Policy(load_checkpoint(checkpoint, device, _dtype(device), robot=robot), num_steps, compile=compile)


@dataclass(frozen=True)
class OpenPolicy:
    """A policy that can be asked, and what tells it from others."""

    policy: ChunkPolicy
    """Answers until its block ends."""
    horizon: int
    """Actions of its chunks."""
    name: str
    """What a report calls it."""
    captures: bool
    """Whether it captures a graph for each size of a batch (it is compiled, or a server's that may be)."""
    identity: Mapping[str, Any]
    """What its chunks depend on: the hash of its files, Euler steps, the device and the type of its numbers there."""


@contextmanager
def open_policy(
    place: str, device: str = "auto", num_steps: int | None = None, robot: str | None = None, compile: bool = True
) -> Iterator[OpenPolicy]:
    """The policy of a checkpoint's folder, or the one served at ws://HOST:PORT, for the length of a `with` block.

    `robot` chooses among those that a checkpoint was trained on; it says the robot of a server that does not say it
    (openpi's). num_steps None: 10. Raises ValueError where an option has no effect on a served policy.
    """
    if not is_address(place):
        steps = NUM_STEPS if num_steps is None else num_steps
        policy = load_policy(Path(place), device, steps, robot, compile)
        kind = _device(device).split(":")[0]
        captures = compile and kind == "cuda"
        identity = {
            "sha256": folder_sha256(Path(place)),
            "num_steps": steps,
            "device": kind,
            "dtype": str(_dtype(kind)).removeprefix("torch."),
            "compiled": captures,
        }
        yield OpenPolicy(policy, policy.horizon, Path(place).resolve().name, captures, identity)
        return
    from pizero.serve.client import RemotePolicy  # who evaluates a checkpoint needs no websockets

    if num_steps is not None or device != "auto" or not compile:
        raise ValueError(f"--num-steps, --device and --no-compile are the server's choice; leave them out for {place}")
    with RemotePolicy(place, None if robot is None else find_robot(robot)) as remote:
        identity = {"served": str(remote.about), "repeatable": remote.repeatable}
        yield OpenPolicy(remote, remote.horizon, place, remote.repeatable, identity)


def is_address(place: str) -> bool:
    """Whether a policy's place is that of a server."""
    return place.startswith(("ws://", "wss://"))


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch sees no CUDA device; use --device cpu")
    return device


def _dtype(device: str) -> torch.dtype:
    return torch.bfloat16 if device.startswith("cuda") else torch.float32


def folder_sha256(checkpoint: Path) -> str:
    """Hash of what a policy needs of a checkpoint's folder, whatever the folder is called and wherever it lies."""
    digest = hashlib.sha256()
    for file in sorted(checkpoint.iterdir()):
        if file.is_file() and file.name != "train.json":
            digest.update(f"{file.name} {file_sha256(file)}\n".encode())
    return digest.hexdigest()
