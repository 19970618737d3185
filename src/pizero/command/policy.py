"""A policy from the path of its checkpoint."""

from pathlib import Path

import torch

from pizero.policy.pi0_policy import Pi0Policy
from pizero.weights.checkpoint import load_checkpoint


def load_policy(checkpoint: Path, device: str = "auto", num_steps: int = 10, robot: str | None = None) -> Pi0Policy:
    """The policy of a checkpoint: bf16 and compiled on a CUDA device, float32 on the CPU.

    `robot` is one of those that it was trained on; None: the first.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch sees no CUDA device; use --device cpu")
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    return Pi0Policy(load_checkpoint(checkpoint, device, dtype, robot=robot), num_steps)
