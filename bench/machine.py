"""What a simulator was measured on: versions, commit and machine."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

from pizero import __version__

SIMULATORS = ("numpy", "mujoco", "metaworld", "robosuite", "hf-libero", "sapien", "mani_skill")


def about() -> dict[str, object]:
    """For the JSON line of a benchmark."""
    info: dict[str, object] = {"pizero": __version__, "commit": commit(), "python": platform.python_version()}
    info |= {name: installed(name) for name in SIMULATORS}
    return info | {"device": platform.processor() or platform.machine(), "cores": os.cpu_count()}


def commit() -> str:
    """The commit this ran on, or "unknown" outside a checkout."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def installed(name: str) -> str | None:
    """A package's version; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
