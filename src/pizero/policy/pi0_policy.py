"""A checkpoint as a policy: frames in, action chunks in real units out."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pizero.data.transform import clip_actions, stack_states
from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.runtime.sampler import Sampler, make_sampler
from pizero.weights.checkpoint import Checkpoint


class Pi0Policy:
    """Transform, sampler and inverse transform around one checkpoint; takes the checkpoint's model over.

    `num_steps` Euler steps per chunk. On a CUDA device the sampler is compiled (see `runtime`), unless `compile` is
    False.
    """

    def __init__(self, checkpoint: Checkpoint, num_steps: int = 10, seed: int = 0, compile: bool = True) -> None:
        self.transform = checkpoint.transform
        self.embodiment: Embodiment = self.transform.config.embodiment
        self.horizon = checkpoint.model.config.horizon
        self._sampler: Sampler = make_sampler(checkpoint.model, num_steps, self.transform.action_mask, compile)
        self._generator = torch.Generator().manual_seed(seed)

    def act(self, frame: Frame, noise: np.ndarray | None = None) -> np.ndarray:
        """Action chunk (t, a) in real units, float32.

        `noise` (t, action_dim); None draws it from the policy's seed.
        """
        drawn = self._noise(self._generator) if noise is None else torch.from_numpy(noise).float()
        return self._sample([frame], drawn[None])[0]

    def act_batch(self, frames: Sequence[Frame], seeds: Sequence[int] | None = None) -> np.ndarray:
        """Action chunks (b, t, a) in real units, float32; the noise of row i depends on seeds[i] alone."""
        if seeds is None:
            noise = torch.stack([self._noise(self._generator) for _ in frames])
        else:
            if len(seeds) != len(frames):
                raise ValueError(f"{len(seeds)} seeds for {len(frames)} frames; give one each")
            noise = torch.stack([self._noise(torch.Generator().manual_seed(seed)) for seed in seeds])
        return self._sample(frames, noise)

    def _noise(self, generator: torch.Generator) -> Tensor:
        return torch.randn(self.horizon, self.transform.config.action_dim, generator=generator)

    def _sample(self, frames: Sequence[Frame], noise: Tensor) -> np.ndarray:
        values = self._sampler(self.transform.observation(frames), noise)
        return self.transform.invert_actions(values, stack_states(frames))


class MeanActionPolicy:
    """The baseline that does the mean action of the demonstrations, whatever it sees."""

    def __init__(self, embodiment: Embodiment, mean: np.ndarray, horizon: int) -> None:
        self.embodiment = embodiment
        within = clip_actions(np.asarray(mean, np.float64), embodiment).astype(np.float32)
        self._chunk = np.broadcast_to(within, (horizon, len(mean)))

    def act(self, frame: Frame) -> np.ndarray:
        """The mean action, repeated (t, a)."""
        return self._chunk

    def act_batch(self, frames: Sequence[Frame], seeds: Sequence[int] | None = None) -> np.ndarray:
        """The mean action, repeated (b, t, a)."""
        return np.broadcast_to(self._chunk, (len(frames), *self._chunk.shape))
