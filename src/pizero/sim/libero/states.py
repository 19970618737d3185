"""The initial states that LIBERO's benchmark prescribes, read without torch."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

_RECONSTRUCT = np.empty(0).__reduce__()[0]  # it has another module in NumPy 2 than when the files were written


def load_states(path: Path) -> Float64[np.ndarray, "n d"]:
    """The rows of a `*.pruned_init` file, each one a flattened state of MuJoCo: time, joint positions, velocities.

    torch.save wrote the files, which makes them zip archives with a pickled array in them. Only what rebuilds an array
    is unpickled; anything else in the pickle raises ValueError.
    """
    with zipfile.ZipFile(path) as archive, archive.open("archive/data.pkl") as file:
        states = _ArrayUnpickler(file).load()
    if not isinstance(states, np.ndarray) or states.dtype != np.float64 or states.ndim != 2:
        raise ValueError(f"{path} holds no table of states")
    return states


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What a pickled array needs, and nothing else."""
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return _RECONSTRUCT
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("_codecs", "encode"):
            return _latin1_bytes
        raise ValueError(f"a file of initial states holds {module}.{name}, which no table of numbers needs")


def _latin1_bytes(text: str, encoding: str) -> bytes:
    return text.encode(encoding)
