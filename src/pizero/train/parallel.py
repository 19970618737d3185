"""How several processes share a model: each with all of it (DDP), or each with a part of every weight (FSDP2)."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from pizero.model.pi0 import Pi0
from pizero.train.world import World

Loss = Callable[..., Tensor]
"""Takes what `Pi0.loss` takes and gives what it gives."""
METHODS_OF_HEADS = ("embed_state", "condition", "embed_actions", "velocity")
"""What the model calls of its heads, in place of their forward."""


class LossModule(nn.Module):
    """A module whose forward is the loss: DDP listens to forward alone."""

    def __init__(self, model: Pi0) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any) -> Tensor:
        """`Pi0.loss`."""
        return self.model.loss(*inputs)


class SharedLoss:
    """The loss of a model that all processes train; its gradients become the mean over the processes."""

    def __init__(self, model: Pi0, world: World, parallel: Literal["ddp", "fsdp"], bf16: bool) -> None:
        """Changes the model for several processes, in place. In one it stays as it is.

        Adapters, compiled layers and `requires_grad` must be there before. With `bf16` the whole weights that FSDP
        puts together for a layer are bfloat16, but for the heads.
        """
        self._model = model
        self._replica: DistributedDataParallel | None = None
        self.sharded = world.size > 1 and parallel == "fsdp"
        """Whether the weights are DTensors, of which each process has a part."""
        if self.sharded:
            shard(model, world, bf16)
        elif world.size > 1:
            self._replica = replicate(model)

    def __call__(self, *inputs: Any) -> Tensor:
        """What `Pi0.loss` gives for this process's rows."""
        return self._model.loss(*inputs) if self._replica is None else self._replica(*inputs)

    @contextmanager
    def exchange(self, last: bool) -> Iterator[None]:
        """Around the loss and its backward pass: gradients are exchanged in those of the `last` piece of a batch only,
        then those of all pieces.
        """
        if self._replica is not None and not last:
            with self._replica.no_sync():
                yield
            return
        if self.sharded:
            assert isinstance(self._model, FSDPModule)
            self._model.set_requires_gradient_sync(last)
        yield


def replicate(model: Pi0) -> DistributedDataParallel:
    """The loss of the model with gradients averaged over all processes while the backward pass goes on."""
    # dynamo would cut what is compiled inside DDP into pieces of the size of DDP's buckets; a layer is small enough
    torch._dynamo.config.optimize_ddp = False
    return DistributedDataParallel(LossModule(model), broadcast_buffers=False, gradient_as_bucket_view=True)


def shard(model: Pi0, world: World, bf16: bool) -> None:
    """Split every parameter of the model among the processes; layers are put together one at a time.

    Gradients are added up in float32. With `bf16` the layers compute with weights rounded to bfloat16; heads, as
    everywhere, with float32.
    """
    device = model.embed_tokens.weight.device.type
    mesh = init_device_mesh(device, (world.size,))
    exact = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if bf16 else exact
    for stack in (model.vision, model.vlm, model.action):
        for layer in stack.layers:
            _shard_part(layer, mesh, policy, exact)
    for layers in (model.vlm.layers, model.action.layers):
        register_fsdp_forward_method(layers[-1], "only_kv")
    fully_shard(model.heads, mesh=mesh, mp_policy=exact)
    for name in METHODS_OF_HEADS:
        register_fsdp_forward_method(model.heads, name)
    _shard_part(model, mesh, policy, exact)
    register_fsdp_forward_method(model, "loss")
    register_fsdp_forward_method(model, "sample")
    # nothing changes the heads' outputs in place
    warnings.filterwarnings("ignore", r"FSDP2-wrapped module .* returned a view tensor")


def _shard_part(part: nn.Module, mesh: DeviceMesh, policy: MixedPrecisionPolicy, exact: MixedPrecisionPolicy) -> None:
    """Shard a layer, or what is left of the model. Weights that are exchanged together must be of one type, so those
    modules whose trained weights are float32 among bfloat16 ones (norms, with bf16-pure) are exchanged by themselves.
    """
    trained = {p.dtype for p in part.parameters() if p.requires_grad and not _is_sharded(p)}
    if len(trained) > 1:
        for module in part.modules():
            own = [p for p in module.parameters(recurse=False) if p.requires_grad and not _is_sharded(p)]
            if own and own[0].dtype == torch.float32:
                fully_shard(module, mesh=mesh, mp_policy=exact)
    fully_shard(part, mesh=mesh, mp_policy=policy)


def _is_sharded(parameter: nn.Parameter) -> bool:
    return isinstance(parameter, DTensor)
