"""The processes of a run: which one this is, what they tell each other, and how the failure of one ends all."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

SAVING_TIMEOUT = timedelta(hours=6)
"""How long a process waits for the others to write their parts of a checkpoint."""
WATCH_S = 0.5
"""How often a process looks whether another has failed."""
GRACE_S = 5.0
"""How long a process may take to end by itself after another has failed."""


@dataclass(frozen=True)
class World:
    """This process among those of the run; by default the only one."""

    rank: int = 0
    """Number of this process."""
    size: int = 1
    """How many there are."""
    saving: dist.ProcessGroup | None = None
    """For checkpoints, which are written while the training talks; None in one process."""

    @property
    def first(self) -> bool:
        """Whether this is the process that prints, logs and names checkpoints."""
        return self.rank == 0

    def part(self, batch_size: int) -> slice:
        """The rows of a batch that this process computes."""
        rows = batch_size // self.size
        return slice(self.rank * rows, (self.rank + 1) * rows)

    def gather(self, numbers: Sequence[float | int]) -> list[list[float]]:
        """The numbers of every process, by its rank. All must call it; it waits for the slowest."""
        if self.size == 1:
            return [[float(number) for number in numbers]]
        own = torch.tensor(numbers, dtype=torch.float64)
        all_numbers = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(all_numbers, own)
        return [each.tolist() for each in all_numbers]

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes, on the device where it is, in its place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until every process is here."""
        self.gather([0.0])

    def wait_saving(self) -> None:
        """Until every process that saves is here; for the thread that does."""
        dist.barrier(self.saving)


def local_rank() -> int | None:
    """Number of this process among those that torchrun started on this machine; None without torchrun."""
    return int(os.environ["LOCAL_RANK"]) if num_processes() > 1 else None


def num_processes() -> int:
    """How many processes torchrun started, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_shares(batch_size: int, accumulate: int) -> None:
    """Raises ValueError when the processes would get parts of a batch of different sizes."""
    if batch_size % (num_processes() * accumulate):
        raise ValueError(
            f"batch_size is {batch_size}, must be a multiple of {num_processes()} processes x accumulate {accumulate}: "
            f"it is the batch of all processes together"
        )


@contextmanager
def join(device: torch.device) -> Iterator[World]:
    """This process among the others that torchrun started; alone without torchrun, then nothing is set up.

    An exception in one process ends all of them, and goes on in the first that has one: the others exit with 1.
    """
    if num_processes() == 1:
        yield World()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    alarm = _Alarm(dist.get_rank())
    saving = dist.new_group(backend="gloo", timeout=SAVING_TIMEOUT)
    world = World(dist.get_rank(), dist.get_world_size(), saving)
    try:
        yield world
        world.wait()
    except BaseException:
        if not alarm.raise_once():
            raise SystemExit(1) from None  # the first one tells what happened
        raise
    alarm.close()
    dist.destroy_process_group()


class _Alarm:
    """Ends this process when another one has failed, also when it waits for that one and would wait for ever."""

    def __init__(self, rank: int) -> None:
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._key, self._rank = f"pizero/failed/{restarts}", str(rank)
        # a connection of its own: torch's is busy for as long as one of its calls waits
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._store = dist.TCPStore(address, port, is_master=False)  # type: ignore[attr-defined]
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="alarm", daemon=True)
        self._thread.start()

    def raise_once(self) -> bool:
        """True in the first process that calls it."""
        try:
            return self._store.compare_set(self._key, "", self._rank) == self._rank.encode()
        except RuntimeError:  # the process that kept the store is gone, so it failed before
            return False

    def close(self) -> None:
        """The run ended well."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(WATCH_S):
            try:
                failed = self._store.check([self._key])
            except RuntimeError:
                failed = True  # the process that kept the store is gone
            if failed and not self._closed.is_set():
                time.sleep(GRACE_S)
                os._exit(1)
