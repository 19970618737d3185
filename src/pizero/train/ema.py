"""The running average of the weights, which acts better than the last weights do."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pizero.train.local import local


class Ema:
    """Exponential moving average in float32, starting from the weights it is given, in any type, shared or not (FSDP).

    Early averages forget faster, so that the fresh weights do not linger: the decay of update n = 0, 1, ... is
    min(decay, (1 + n) / (10 + n)) (TensorFlow, tf.train.ExponentialMovingAverage). It takes 4 bytes for each trained
    weight; an update needs no further memory for float32 weights, nor for others more than the largest of them.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.average = {name: weight.detach().float().clone() for name, weight in weights.items()}
        """By name; shared between processes as the weights are."""

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], num_updates: int) -> None:
        """Move the average towards the weights; `num_updates` is the number of updates before this one."""
        part = 1 - min(self.decay, (1 + num_updates) / (10 + num_updates))
        pairs = [(local(average), local(weights[name])) for name, average in self.average.items()]
        exact = [pair for pair in pairs if pair[1].dtype == torch.float32]
        if exact:  # all in a few kernels
            torch._foreach_lerp_([average for average, _ in exact], [weight for _, weight in exact], part)
        for average, weight in pairs:
            if weight.dtype != torch.float32:
                average.lerp_(weight.float(), part)
