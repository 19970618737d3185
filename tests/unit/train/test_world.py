"""One process is a world of its own; what each of several gets."""

import pytest
import torch

from pizero.train.host import choose_device
from pizero.train.world import World, check_shares, join, local_rank


def test_one_process_is_alone_and_sets_nothing_up() -> None:
    with join(torch.device("cpu")) as world:
        assert world == World()
        assert world.first
        assert world.part(6) == slice(0, 6)
        assert world.gather([1, 2.5]) == [[1.0, 2.5]]
        values = torch.tensor([1.0, 2.0])
        assert torch.equal(world.sum(values), torch.tensor([1.0, 2.0]))
        world.wait()
    assert not torch.distributed.is_initialized()
    assert local_rank() is None


def test_the_parts_of_all_processes_are_the_batch() -> None:
    rows = [list(range(12))[World(rank, 3).part(12)] for rank in range(3)]
    assert rows == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_shares(8, 2)
    with pytest.raises(ValueError, match="batch_size is 6, must be a multiple of 2 processes x accumulate 2"):
        check_shares(6, 2)


def test_each_process_of_a_machine_gets_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [choose_device("auto", rank) for rank in range(2)] == [torch.device("cuda:0"), torch.device("cuda:1")]
    assert choose_device("cpu", 1) == torch.device("cpu")
    with pytest.raises(ValueError, match="device is 'cuda:1', but each of several processes needs a GPU of its own"):
        choose_device("cuda:1", 0)
    with pytest.raises(ValueError, match="this is process 2 of this machine, but torch sees 2 cuda devices here"):
        choose_device("cuda", 2)
