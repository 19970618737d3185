"""Which sampler runs where: plain everywhere, one CUDA graph on a CUDA device; both equal `Pi0.sample`."""

import logging
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pizero.model.pi0 import Pi0
from pizero.runtime.graph import GraphSampler
from pizero.types import Observation

log = logging.getLogger(__name__)

Sampler = Callable[[Observation, Tensor], Tensor]
"""(observation, noise) on the host -> action chunks in model units, float32, on the host."""


class PlainSampler:
    """`Pi0.sample` from host tensors to host tensors, on whatever device the model is."""

    def __init__(self, model: Pi0, num_steps: int = 10, action_mask: Bool[Tensor, " a"] | None = None) -> None:
        self.model, self.num_steps = model, num_steps
        self.device, self.dtype = model.embed_tokens.weight.device, model.dtype
        self.action_mask = None if action_mask is None else action_mask.to(self.device)

    def __call__(self, observation: Observation, noise: Float[Tensor, "b t a"]) -> Float[Tensor, "b t a"]:
        """Action chunks in model units, float32, on the host."""
        there = observation.trim().to(self.device, self.dtype)
        return self.model.sample(there, self.num_steps, noise.to(self.device), action_mask=self.action_mask).cpu()


class FallbackSampler:
    """The compiled sampler, or, from the first time that compiling fails, the plain one; it says so once."""

    def __init__(self, fast: GraphSampler, plain: PlainSampler) -> None:
        self._fast: GraphSampler | None = fast
        self._plain = plain

    def __call__(self, observation: Observation, noise: Float[Tensor, "b t a"]) -> Float[Tensor, "b t a"]:
        """Action chunks in model units, float32, on the host."""
        if self._fast is not None:
            try:
                return self._fast(observation, noise)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                log.warning("compiling the sampler failed, running it plain, several times slower: %s", error)
                self._fast.give_up()
                self._fast = None
        return self._plain(observation, noise)


def make_sampler(
    model: Pi0, num_steps: int = 10, action_mask: Bool[Tensor, " a"] | None = None, compile: bool = True
) -> Sampler:
    """The fastest sampler for the device that the model is on. A compiled one takes the model over.

    On a CUDA device with `compile`: a CUDA graph over compiled layers; elsewhere `Pi0.sample`.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}, must be at least 1")
    plain = PlainSampler(model, num_steps, action_mask)
    if not compile or plain.device.type != "cuda":
        return plain
    return FallbackSampler(GraphSampler(model, num_steps, action_mask), plain)
