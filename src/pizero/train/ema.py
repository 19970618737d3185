"""The running average of the weights, which acts better than the last weights do."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Ema:
    """Exponential moving average in float32, starting from the weights it is given.

    Early averages forget faster, so that the fresh weights do not linger: the decay of update n = 0, 1, ... is
    min(decay, (1 + n) / (10 + n)) (TensorFlow, tf.train.ExponentialMovingAverage).
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.average = {name: weight.detach().float().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], num_updates: int) -> None:
        """Move the average towards the weights; `num_updates` is the number of updates before this one."""
        decay = min(self.decay, (1 + num_updates) / (10 + num_updates))
        for name, average in self.average.items():
            average.lerp_(weights[name].float(), 1 - decay)
