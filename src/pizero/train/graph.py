"""Forward and backward pass as one CUDA graph, for networks that a GPU runs faster than Python can ask it to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pizero.types import Actions, Observation

WARM_UP = 3
"""Passes before the capture, in which kernels are chosen and compiled (torch's notes on CUDA graphs)."""

Loss = Callable[[Observation, Actions, Tensor, Tensor], Float[Tensor, ""]]
"""Takes observation, actions, flow times and noise."""


@dataclass(frozen=True)
class _Inputs:
    """What the graph reads, in places that stay."""

    observation: Observation
    actions: Actions
    t: Tensor
    noise: Tensor
    weight: Tensor

    def clone(self) -> "_Inputs":
        """The same numbers in other places."""
        actions = Actions(self.actions.values.clone(), self.actions.mask.clone())
        return _Inputs(self.observation.clone(), actions, self.t.clone(), self.noise.clone(), self.weight.clone())

    def take(self, others: "_Inputs") -> None:
        """Their numbers, in the own places."""
        self.observation.take(others.observation)
        own = self.actions.values, self.actions.mask, self.t, self.noise, self.weight
        new = others.actions.values, others.actions.mask, others.t, others.noise, others.weight
        for tensor, other in zip(own, new, strict=True):
            tensor.copy_(other)


class GraphedBackward:
    """A loss and its gradients, of batches that all have the shapes of the first.

    Gradients take the place of those before, they are not added to them; they lie in the graph's own memory, which the
    next call writes to.
    """

    def __init__(self, loss: Loss, parameters: Sequence[nn.Parameter]) -> None:
        self._loss, self._parameters = loss, parameters
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: _Inputs | None = None
        self._value = torch.zeros(())
        self._gradients: list[Tensor | None] = []

    def __call__(
        self,
        observation: Observation,
        actions: Actions,
        t: Float[Tensor, " n"],
        noise: Float[Tensor, "n t a"],
        weight: float,
    ) -> Float[Tensor, ""]:
        """The loss, detached, until the next call; the gradients are those of `weight` times the loss."""
        given = _Inputs(observation, actions, t, noise, torch.tensor(weight, device=t.device))
        if self._graph is None or self._inputs is None:
            self._inputs = given.clone()
            self._graph = self._capture(self._inputs)
        self._inputs.take(given)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._value

    def _capture(self, inputs: _Inputs) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._backward(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        for parameter in self._parameters:
            parameter.grad = None  # the graph makes them anew, in memory of its own
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # the loader pins memory meanwhile
            self._value = self._backward(inputs)
        self._gradients = [parameter.grad for parameter in self._parameters]
        return graph

    def _backward(self, inputs: _Inputs) -> Tensor:
        value = self._loss(inputs.observation, inputs.actions, inputs.t, inputs.noise)
        (value * inputs.weight).backward()
        return value.detach()
