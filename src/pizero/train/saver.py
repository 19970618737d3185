"""Checkpoints of a run, written while it goes on.

A run's folder holds checkpoints (`weights/checkpoint.py`) named after their step, and `last`, a link to the newest.
Each has, beside what a policy needs,

    train.json              the config of the run
    train_state/state.json  step, time, sums of the current interval of metrics
    train_state/*.distcp    the optimiser's averages; the trained weights, where the checkpoint's own are their average
                            or rounded; then the average too (torch.distributed.checkpoint; .metadata lists them)
    robots/                 further robots of a mixture (`weights/robots.py`)
"""

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from pizero.data.transform import Transform
from pizero.train.averaged import reshard
from pizero.train.config import config_to_json
from pizero.train.log import Interval
from pizero.train.optimizer import optimizer_tensors
from pizero.train.shards import save_shards
from pizero.train.state import TrainState
from pizero.train.world import World
from pizero.weights.adapter import save_adapter
from pizero.weights.checkpoint import save_checkpoint, save_tensors
from pizero.weights.robots import save_robots

CONFIG, STATE, COUNTERS = "train.json", "train_state", "state.json"
LAST = "last"


@dataclass(frozen=True)
class Counters:
    """The numbers of a run's state, as state.json holds them."""

    step: int
    seconds: float
    interval: Interval


class Saver:
    """Writes one checkpoint after the other in the background; a `with` block waits for the last one."""

    def __init__(self, state: TrainState, transforms: Sequence[Transform]) -> None:
        """`transforms`: of each robot, that of the policy first."""
        self._state, self._transforms = state, tuple(transforms)
        self._thread: threading.Thread | None = None
        self._errors: list[BaseException] = []

    def save(self) -> Path:
        """Begin to write the checkpoint of this step, and give its path; it is there once all of it is on disk.

        All processes call it. When it returns the run may go on. Waits until the checkpoint before is written; raises
        what that one raised.
        """
        self.wait()
        path = self._state.config.output / f"step-{self._state.step:06}"
        write = _stage(self._state, self._transforms, path)
        self._thread = threading.Thread(target=self._run, args=(write,), name="saver", daemon=True)
        self._thread.start()
        return path

    def wait(self) -> None:
        """Until the checkpoint is written; raises what writing it raised."""
        if self._thread is not None:
            self._thread.join()
        self.check()

    def check(self) -> None:
        """Raises what writing the last checkpoint raised, if it has."""
        if self._errors:
            raise self._errors.pop()

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:  # handed to the training, which raises it
            self._errors.append(error)

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):  # the second one: at once
            return
        if error is None:
            self.wait()
        elif self._thread is not None:
            self._thread.join()


def _stage(state: TrainState, transforms: tuple[Transform, ...], path: Path) -> Callable[[], None]:
    """A function that writes the checkpoint; it holds copies on the host, so that the run may go on."""
    world, sharded = state.world, state.loss.sharded
    if not (sharded or world.first):  # the first has all that this one has
        return lambda: None
    weights = _policy_weights(state)
    tensors = state_tensors(state, optimizer_tensors(state.optimizer, state.parameters))
    copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
    group = world.saving if sharded else None
    inner = path.with_name(path.name + ".part") / STATE
    if not world.first:
        return partial(_write_part, inner, copies, world)
    counters = Counters(state.step, state.seconds, state.interval)
    texts = {
        CONFIG: json.dumps(config_to_json(state.config), indent=2) + "\n",
        f"{STATE}/{COUNTERS}": json.dumps(asdict(counters), indent=2) + "\n",
    }

    def write_training(folder: Path) -> None:
        (folder / STATE).mkdir()
        for name, text in texts.items():
            (folder / name).write_text(text)
        save_robots(folder, transforms[1:])
        if sharded:
            world.wait_saving()  # until now the others must not make the folder
        save_shards(folder / STATE, copies, group)

    def write() -> None:
        if state.adapter is not None:
            save_adapter(path, weights, state.adapter, state.model.config, transforms[0], write_training)
        else:
            save_weights = partial(save_tensors, tensors=weights)
            save_checkpoint(path, save_weights, state.model.config, transforms[0], write_training)
        _point_to(path, state.config.keep)

    return write


def state_tensors(state: TrainState, averages: dict[str, Tensor]) -> dict[str, Tensor]:
    """What train_state holds of a run: what cannot be read from the weights of its policy. `averages`: the optimiser's.

    They are the run's own tensors, each process's part of them with FSDP.
    """
    tensors = {f"optimizer.{name}": tensor for name, tensor in averages.items()}
    ema = {} if state.ema is None else state.ema.average
    if state.exact_checkpoint and not ema:
        return tensors
    weights: dict[str, Tensor] = dict(state.parameters)
    if not state.exact_checkpoint:
        tensors |= {f"average.{name}": average for name, average in ema.items()}
        if state.whole_checkpoint:  # it is bfloat16, and some of what is frozen is not
            reshard(state.model)
            weights |= {name: p for name, p in state.model.named_parameters() if p.dtype == torch.float32}
    return tensors | {f"weights.{name}": weight.detach() for name, weight in weights.items()}


def _write_part(inner: Path, copies: dict[str, Tensor], world: World) -> None:
    world.wait_saving()
    save_shards(inner, copies, world.saving)


def _policy_weights(state: TrainState) -> dict[str, Tensor]:
    """What a policy needs, whole, on the host of the first process; all processes help to put it together.

    The averages where there are some. All weights, float32, or bfloat16 where that is what is trained; of a run with
    adapters only what is trained, float32.
    """
    averages = {} if state.ema is None else state.ema.average
    whole = state.whole_checkpoint
    if whole:
        reshard(state.model)  # parameters that FSDP has put together are others
    chosen = dict(state.model.named_parameters()) if whole else state.parameters
    dtype = torch.bfloat16 if whole and state.config.precision == "bf16-pure" else torch.float32
    weights = {}
    for name, weight in chosen.items():
        tensor = averages.get(name, weight).detach()
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor()
        if state.world.first:
            weights[name] = tensor.to("cpu", dtype, copy=True)
    return weights


def _point_to(path: Path, keep: int) -> None:
    """Make `last` the link to the checkpoint, and delete those beyond the `keep` newest."""
    output = path.parent
    link = output / (LAST + ".part")
    link.unlink(missing_ok=True)
    link.symlink_to(path.name)
    os.replace(link, output / LAST)
    for old in checkpoints(output)[:-keep]:
        os.rename(old, aside := old.with_name(old.name + ".part"))  # never half a checkpoint under its own name
        shutil.rmtree(aside)


def checkpoints(output: Path) -> list[Path]:
    """The complete checkpoints in a run's folder, oldest first."""
    found = [path for path in output.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))
