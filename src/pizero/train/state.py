"""What a run is at one step."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pizero.data.augment import Augmentation
from pizero.model.pi0 import Pi0
from pizero.train.compiling import compile_layers
from pizero.train.config import TrainConfig
from pizero.train.ema import Ema
from pizero.train.graph import GraphedBackward
from pizero.train.initial import load_init, make_model
from pizero.train.log import Interval
from pizero.train.optimizer import make_optimizer
from pizero.train.parallel import SharedLoss
from pizero.train.tune import adapter_config, check_tune, prepare
from pizero.train.world import World
from pizero.types import Actions, Observation
from pizero.weights.adapter_source import AdapterConfig


@dataclass
class TrainState:
    """Everything that a step changes, and what it needs."""

    config: TrainConfig
    device: torch.device
    world: World
    """The processes of the run."""
    model: Pi0
    loss: SharedLoss
    """`model.loss`, of which gradients reach all processes."""
    parameters: dict[str, nn.Parameter]
    """The trained ones, by their names in the model; DTensors with FSDP."""
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    graph: GraphedBackward | None = None
    """Takes the place of `mean_loss` and its backward pass."""
    augment: Augmentation | None = None
    """Random changes of the pictures."""
    adapter: AdapterConfig | None = None
    """What is to be known of adapters when they are saved; None where the run has none."""
    step: int = 0
    """Optimiser steps done."""
    seconds: float = 0.0
    """Training time, over all interruptions."""
    interval: Interval = field(default_factory=Interval)
    """Since the last line of metrics."""

    def mean_loss(
        self, observation: Observation, actions: Actions, t: Float[Tensor, " n"], noise: Float[Tensor, "n t a"]
    ) -> Float[Tensor, ""]:
        """`Pi0.loss` in the precision of the run."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision != "fp32"):
            return self.loss(observation, actions, t, noise, self.config.sigma_min)

    @property
    def whole_checkpoint(self) -> bool:
        """Whether a checkpoint's weights are all of the network's; if not, they are adapters."""
        return self.config.tune in ("full", "expert")

    @property
    def exact_checkpoint(self) -> bool:
        """Whether the weights of a checkpoint are those of the run, or their average, to the last bit."""
        return self.whole_checkpoint and self.config.precision != "bf16-pure"


def make_state(config: TrainConfig, device: torch.device, world: World | None = None) -> TrainState:
    """A run before its first step: fresh weights from the seed, or those of `config.init`."""
    check_tune(config)
    model = make_model(config, device)
    if config.init is not None:
        load_init(model, config.init)
    state = wrap(config, device, model, world)
    state.adapter = adapter_config(model, config) if state.world.first else None
    return state


def wrap(config: TrainConfig, device: torch.device, model: Pi0, world: World | None = None) -> TrainState:
    """The state of a run that starts with this model, which becomes what the config trains and computes."""
    world = world or World()
    names = list(prepare(model, config))
    model.set_recompute(config.recompute)
    if config.compile:
        compile_layers(model)
    loss = SharedLoss(model, world, config.parallel, config.precision != "fp32")
    parameters = {name: model.get_parameter(name) for name in names}  # those of before FSDP are gone
    rounded = config.precision == "bf16-pure"
    state = TrainState(
        config=config,
        device=device,
        world=world,
        model=model,
        loss=loss,
        parameters=parameters,
        optimizer=make_optimizer(parameters, config.optim, rounded, loss.sharded),
        ema=None if config.optim.ema_decay is None else Ema(parameters, config.optim.ema_decay),
    )
    if config.graph:
        _check_graph(device, world)
        state.graph = GraphedBackward(state.mean_loss, list(parameters.values()))
    return state


def _check_graph(device: torch.device, world: World) -> None:
    if device.type != "cuda":
        raise ValueError(f"graph is a CUDA graph, and this run is on {device.type}; give --no-graph")
    if world.size > 1:
        raise ValueError(f"graph does not work with {world.size} processes; give --no-graph")
