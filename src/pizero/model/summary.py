"""How large a network is, part by part, without building it."""

from dataclasses import dataclass

import torch

from pizero.model.config import Pi0Config
from pizero.model.pi0 import Pi0


@dataclass(frozen=True)
class Part:
    """One part of the network."""

    name: str
    """Name of the attribute of `Pi0`, which its parameters' names start with."""
    what: str
    """What the part is, in a few words."""
    num_parameters: int
    """Numbers in its weights."""

    @property
    def float32_bytes(self) -> int:
        """Memory of its weights as they are trained; half of it in bf16."""
        return 4 * self.num_parameters


WHAT = {
    "vision": "SigLIP vision tower",
    "projector": "image tokens to the vlm",
    "embed_tokens": "token embedding",
    "vlm": "Gemma expert of image and prompt",
    "action": "Gemma expert of state and actions",
    "heads": "state, action, time in; velocity out",
}


def summarise(config: Pi0Config) -> list[Part]:
    """The parts of the network in the order of the data flow; together they are all of it."""
    with torch.device("meta"):
        model = Pi0(config)
    return [
        Part(name, WHAT[name], sum(parameter.numel() for parameter in child.parameters()))
        for name, child in model.named_children()
    ]
