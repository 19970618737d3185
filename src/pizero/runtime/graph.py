"""The fast sampler on a CUDA device: compiled layers, static shapes, one CUDA graph over prefill and all Euler steps.

Only the layers are compiled, not the whole network: the 27 + 18 + 18 layers share four compiled functions, so the first
action comes after seconds, not minutes; the graph then removes what is left of launch overhead. Hand-written kernels
would take the place of `_compile` and stay equal to `Pi0.sample`.
"""

import logging
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast

import torch
import torch._dynamo
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad

from pizero.model.pi0 import Pi0
from pizero.runtime.fuse import fuse
from pizero.types import Observation

log = logging.getLogger(__name__)

PROMPT_BUCKET = 16
"""Prompts are padded (and masked) to a multiple of this many tokens, so that few graphs serve all of them."""
MOST_VERSIONS = 64
"""Of a compiled layer: one for each shape of prompt and cameras. torch gives up after 8 when it is not told."""
WARM_UP_RUNS = 3
"""Runs before capture; CUDA needs its libraries initialised outside of it."""


@dataclass(frozen=True)
class _Captured:
    observation: Observation
    noise: Tensor
    actions: Tensor
    graph: torch.cuda.CUDAGraph

    def replay(self, observation: Observation, noise: Tensor) -> Tensor:
        self.observation.take(observation)
        self.noise.copy_(noise, non_blocking=True)
        self.graph.replay()
        return self.actions.cpu()


class GraphSampler:
    """Calls like `Pi0.sample` on host tensors, equal to it within the rounding of the model's dtype.

    Takes the model over: its projections are fused in place. The first call with a new shape compiles and captures.
    """

    def __init__(self, model: Pi0, num_steps: int = 10, action_mask: Bool[Tensor, " a"] | None = None) -> None:
        if model.embed_tokens.weight.device.type != "cuda":
            raise ValueError("a CUDA graph needs the model on a CUDA device; move it there or use Pi0.sample")
        self.model = fuse(model)
        self.num_steps = num_steps
        self.action_mask = action_mask if action_mask is None else action_mask.to(self._device)
        self._captured: dict[tuple, _Captured] = {}
        self._compile()

    @torch.inference_mode()
    def __call__(self, observation: Observation, noise: Float[Tensor, "b t a"]) -> Float[Tensor, "b t a"]:
        """Action chunks in model units, float32, on the host; observation and noise on the host."""
        observation = bucket_prompt(observation.trim())
        key = _shapes(observation)
        if key not in self._captured:
            started = time.perf_counter()
            self._captured[key] = self._capture(observation, noise)
            log.info("compiled and captured the sampler for %s in %.1f s", key, time.perf_counter() - started)
        return self._captured[key].replay(observation, noise)

    @property
    def _device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    def give_up(self) -> None:
        """Take compilation out of the model again, so that it runs plain."""
        for layer in self._layers():
            layer._compiled_call_impl = None
        self._captured.clear()

    def _layers(self) -> tuple[nn.Module, ...]:
        return (*self.model.vision.layers, *self.model.vlm.layers, *self.model.action.layers)

    def _compile(self) -> None:
        for layer in self._layers():
            layer.compile(dynamic=False, fullgraph=True)

    def _capture(self, observation: Observation, noise: Tensor) -> _Captured:
        static = observation.to(self._device, self.model.dtype)
        static_noise = noise.to(self._device)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), many_versions():
            for _ in range(WARM_UP_RUNS):
                self._sample(static, static_noise)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            actions = self._sample(static, static_noise)
        return _Captured(static, static_noise, actions, graph)

    def _sample(self, observation: Observation, noise: Tensor) -> Tensor:
        return self.model.sample(observation, self.num_steps, noise, action_mask=self.action_mask)


def many_versions() -> AbstractContextManager[None]:
    """A context in which layers are compiled for as many shapes as a robot may come with."""
    return cast(AbstractContextManager[None], torch._dynamo.config.patch(recompile_limit=MOST_VERSIONS))


def bucket_prompt(observation: Observation) -> Observation:
    """The observation with its prompt padded to a multiple of PROMPT_BUCKET tokens."""
    length = observation.prompt.shape[1]
    missing = -length % PROMPT_BUCKET
    if not missing:
        return observation
    mask = observation.prompt_mask
    if mask is None:
        mask = torch.ones_like(observation.prompt, dtype=torch.bool)
    return Observation(
        observation.images,
        pad(observation.prompt, (0, missing)),
        observation.state,
        observation.image_mask,
        pad(mask, (0, missing), value=False),
    )


def _shapes(observation: Observation) -> tuple:
    masks = tuple(mask is not None for mask in (observation.image_mask, observation.prompt_mask))
    return (*observation.images.shape[:2], observation.prompt.shape[1], *masks)
