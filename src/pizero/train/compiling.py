"""torch.compile for training: layer by layer, so that the layers of a stack share one compiled function."""

from typing import cast

import torch

from pizero.model.gemma import GemmaLayer
from pizero.model.pi0 import Pi0


def compile_layers(model: Pi0, backend: str = "inductor") -> None:
    """Compile every layer in place, forward and backward; to be called before layers are wrapped.

    Layers of one stack and the same shapes share the compiled code, so that the first step comes after seconds; between
    layers runs plain PyTorch, whose time hides behind the GPU's. Shapes must stay the same from step to step: another
    shape compiles again.
    """
    for stack in (model.vision.layers, model.vlm.layers, model.action.layers):
        for layer in stack:
            layer.compile(fullgraph=True, dynamic=False, backend=backend)
    for layer in (model.vlm.layers[-1], model.action.layers[-1]):
        gemma = cast(GemmaLayer, layer)
        gemma.only_kv = torch.compile(gemma.only_kv, fullgraph=True, dynamic=False, backend=backend)  # type: ignore[method-assign]
