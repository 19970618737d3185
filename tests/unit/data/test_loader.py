import gc
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_recording import ToyRecording, make_sources

from pizero.data.augment import Augmentation
from pizero.data.dataset import CorruptPicture
from pizero.data.lerobot import LeRobotDataset
from pizero.data.loader import Batch, Batches
from pizero.data.mix import Mixture, Source
from pizero.data.stats import compute_stats
from pizero.data.transform import Transform

DIFFERENT = {"lengths": (6, 3), "cameras": ("front",), "name": "other", "root": "other", "dims": (4, 3)}
"""Another robot, with fewer cameras and more dimensions."""


def toy(**arguments: object) -> Mixture:
    return Mixture(make_sources(ToyRecording(**arguments)), seed=3)


def two_robots(**arguments: object) -> Mixture:
    datasets = ToyRecording(**arguments), ToyRecording(**DIFFERENT)
    return Mixture(make_sources(*datasets, weights=(0.7, 0.3)), seed=3, held_out=0.2)


def tensors(batch: Batch) -> list:
    masks = [batch.image_mask, batch.prompt_mask, batch.action_mask]
    numbers = [batch.total, batch.skipped, batch.step, batch.row.tolist(), batch.source.tolist()]
    return [batch.images, batch.prompt, batch.state, batch.values, *masks, *numbers]


def equal(a: Batch, b: Batch) -> bool:
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
        for x, y in zip(tensors(a), tensors(b), strict=True)
    )


def take(mixture: Mixture, count: int, **arguments: object) -> list[Batch]:
    with Batches(mixture, **({"batch_size": 6} | arguments)) as batches:
        return [next(batches) for _ in range(count)]


@pytest.mark.parametrize("preload", [None, "as recorded", "model size"])
@pytest.mark.parametrize("how", ["pad", "squash", "lerobot"])
def test_a_batch_is_the_observation_of_its_frames_bit_for_bit(
    dataset: LeRobotDataset, transform: Transform, root: Path, preload: str | None, how: str
) -> None:
    reference = LeRobotDataset(root)
    config = replace(transform.config, resize=how, delta_actions=("dx",), normalization="z-score")
    transform = Transform(config, compute_stats(dataset, config.units, 3), transform.tokenizer)
    if preload:
        dataset.preload((24, 24) if preload == "model size" else None, how)
    mixture = Mixture([Source(dataset, transform, 1.0)], 3)
    with Batches(mixture, batch_size=6) as batches:
        for step in range(6):
            batch = next(batches)
            _, indices = batches.rows(step)
            frames = [reference.frame(int(i)) for i in indices]
            values, real = reference.chunks(indices, 3)
            expected = transform.observation(frames)
            actions = transform.actions(values, real, dataset.state[indices])
            observation = batch.observation("cpu")
            assert torch.equal(observation.images, expected.images)
            assert torch.equal(observation.state, expected.state)
            length = observation.prompt.shape[1]
            assert torch.equal(observation.prompt, expected.prompt[:, :length])
            assert torch.equal(observation.prompt_mask, expected.prompt_mask[:, :length])
            assert not expected.prompt_mask[:, length:].any()
            assert observation.image_mask is None  # every frame has every camera
            assert torch.equal(batch.actions("cpu").values, actions.values)
            assert torch.equal(batch.actions("cpu").mask, actions.mask)
            assert batch.total == actions.mask.sum()
            assert batch.images.dtype == (torch.float32 if how == "lerobot" else torch.uint8)


def test_a_batch_of_two_robots_has_each_row_as_its_own_robot_sees_it() -> None:
    mixture = two_robots()
    for batch in take(mixture, 4, batch_size=20):
        source, frame = mixture.rows(batch.step, 20)
        assert set(source) == {0, 1}
        assert batch.source.tolist() == source.tolist()
        observation = batch.observation("cpu")
        for row in range(20):
            dataset, transform = mixture.sources[source[row]].dataset, mixture.sources[source[row]].transform
            expected = transform.observation([dataset.frame(frame[row])])
            views = expected.images.shape[1]
            assert torch.equal(observation.images[row, :views], expected.images[0])
            assert (observation.images[row, views:] == -1).all()
            assert observation.image_mask[row].tolist() == [True] * views + [False] * (2 - views)
            assert torch.equal(observation.state[row], expected.state[0])
            assert torch.equal(observation.prompt[row], expected.prompt[0, : mixture.prompt_length])
            assert torch.equal(observation.prompt_mask[row], expected.prompt_mask[0, : mixture.prompt_length])
            values, real = dataset.chunks(frame[row : row + 1], 3)
            actions = transform.actions(values, real, dataset.state[frame[row : row + 1]])
            assert torch.equal(batch.values[row], actions.values[0])
            assert torch.equal(batch.action_mask[row], actions.mask[0])
        assert batch.total == batch.action_mask.sum()


@pytest.mark.parametrize("workers", [0, 2])
def test_parts_of_a_batch_are_the_rows_of_the_whole(workers: int) -> None:
    mixture = two_robots()
    whole = take(mixture, 3, batch_size=12)
    for world in (2, 3):
        rows = 12 // world
        for rank in range(world)[-1:] if workers else range(world):
            part = slice(rank * rows, (rank + 1) * rows)
            for batch, full in zip(take(mixture, 3, batch_size=12, part=part, workers=workers), whole, strict=True):
                assert equal(batch, full.rows(part))
                assert batch.total == full.action_mask.sum()
                assert batch.row.tolist() == list(range(12))[part]


def test_starting_at_a_step_gives_what_an_uninterrupted_run_gets() -> None:
    whole = take(two_robots(), 40)
    rest = take(two_robots(), 5, start_step=35)
    assert all(equal(a, b) for a, b in zip(whole[35:], rest, strict=True))
    assert not equal(whole[0], replace(whole[1], step=0))


def test_workers_give_the_same_batches_as_a_thread() -> None:
    expected = take(two_robots(), 9, batch_size=7, start_step=2)
    made = take(two_robots(delay_s=0.002), 9, batch_size=7, start_step=2, workers=3)
    assert all(equal(a, b) for a, b in zip(made, expected, strict=True))
    assert not active_children()


def test_a_killed_worker_is_replaced_and_the_batches_stay_the_same() -> None:
    expected = take(two_robots(), 12)
    with Batches(two_robots(delay_s=0.01), 6, workers=2) as batches:
        made = [next(batches) for _ in range(2)]
        for process in active_children():
            os.kill(process.pid, signal.SIGKILL)
        made += [next(batches) for _ in range(10)]
        assert batches.counters.restarts == 2
    assert all(equal(a, b) for a, b in zip(made, expected, strict=True))


def test_a_frame_that_kills_every_worker_ends_the_run_with_a_clear_error() -> None:
    mixture = toy(deadly=frozenset([int(toy().rows(1, 4)[1][2])]))
    with Batches(mixture, 4, workers=1) as batches:
        assert next(batches).step == 0
        with pytest.raises(ValueError, match=r"3 worker processes died one after another \(exit code 9\)"):
            next(batches)
    assert not active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_in_the_code_reaches_the_training_loop_when_its_batch_is_due(workers: int) -> None:
    mixture = toy(wrong=frozenset([int(toy().rows(1, 4)[1][2])]))
    with Batches(mixture, 4, workers=workers) as batches:
        assert next(batches).step == 0
        with pytest.raises(KeyError, match="a mistake in the code"):
            next(batches)
    with pytest.raises(ValueError, match="closed"):
        next(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_picture_stops_the_run_with_its_file(workers: int) -> None:
    frame = int(toy().rows(1, 4)[1][2])
    with (
        Batches(toy(corrupt=frozenset([frame])), 4, workers=workers) as batches,
        pytest.raises(CorruptPicture, match=rf"toy/front\.mp4 cannot be decoded at frame {frame}"),
    ):
        list(zip(range(2), batches, strict=False))


def test_a_corrupt_picture_is_replaced_when_told_to_and_counted() -> None:
    bad = frozenset([3, 8, 9])
    whole, mixture = take(toy(), 8), toy(corrupt=bad)
    with Batches(mixture, 6, corrupt="skip") as batches:
        made = [next(batches) for _ in range(8)]
        assert batches.counters.skipped == 9  # three epochs of 16 frames
    good = {tuple(batch.state[row].tolist()) for batch in whole for row in range(6)}
    for batch, full in zip(made, whole, strict=True):
        _, frame = mixture.rows(batch.step, 6)
        replaced = np.isin(frame, list(bad))
        assert batch.skipped == replaced.sum()
        assert batch.total == full.total  # of the frames that were meant: other processes know it too
        for row in range(6):
            same = torch.equal(batch.images[row], full.images[row])
            assert same != replaced[row]
            assert torch.equal(batch.state[row], full.state[row]) != replaced[row]  # a whole other frame
            assert tuple(batch.state[row].tolist()) in good
    parts = take(mixture, 8, part=slice(3, 6), corrupt="skip", workers=1)
    for part, batch in zip(parts, made, strict=True):
        assert equal(replace(part, skipped=batch.skipped), batch.rows(slice(3, 6)))
    assert sum(part.skipped for part in parts) < 9


def test_a_data_set_without_one_good_picture_is_not_read_for_ever() -> None:
    with (
        Batches(toy(corrupt=frozenset(range(16))), 2, corrupt="skip") as batches,
        pytest.raises(CorruptPicture, match="so were 100 others that were tried in its place"),
    ):
        next(batches)


def test_masks_are_none_only_where_they_say_nothing_in_the_whole_run() -> None:
    one = Mixture(make_sources(ToyRecording(tasks=("open it",))), 0)
    assert one.prompt_length == one.sources[0].transform.prompt_lengths(["open it"])[1] < 30
    [batch] = take(one, 1, batch_size=2)
    assert batch.prompt_mask is None
    assert batch.image_mask is None
    assert batch.prompt.shape == (2, one.prompt_length)
    batches = take(two_robots(), 30, batch_size=1)
    assert all(batch.prompt_mask is not None and batch.image_mask is not None for batch in batches)
    assert len({batch.prompt.shape for batch in batches}) == 1
    assert any(batch.image_mask.all() for batch in batches)  # given even where all is there


def test_pictures_change_on_the_way_to_the_device_by_row_and_step_alone() -> None:
    mixture = two_robots()
    augment = Augmentation(5, mixture.moving_views(("wrist",)), 0.9, 5.0, 1, 0.2, 0.2, 0.2)
    first, second = take(mixture, 2, batch_size=8)
    whole = first.observation("cpu", augment)
    assert not torch.equal(whole.images, first.observation("cpu").images)
    assert torch.equal(whole.state, first.observation("cpu").state)
    for part in (slice(0, 4), slice(4, 8)):
        assert torch.equal(first.rows(part).observation("cpu", augment).images, whole.images[part])
        [piece] = take(mixture, 1, batch_size=8, part=part)
        assert torch.equal(piece.observation("cpu", augment).images, whole.images[part])
    again = replace(first, step=1).observation("cpu", augment)
    assert not torch.equal(again.images, whole.images)
    half = second.observation("cpu", augment, torch.bfloat16)
    assert half.images.dtype == torch.bfloat16
    assert half.state.dtype == torch.float32
    bare = replace(first, row=None, source=None)
    changed = bare.observation("cpu", augment).images
    assert torch.equal(changed[first.source == 0], whole.images[first.source == 0])


def test_a_prompt_that_is_longer_than_the_longest_is_never_cut() -> None:
    mixture = toy()
    mixture.prompt_length -= 1
    with (
        Batches(mixture, 16) as batches,
        pytest.raises(ValueError, match=r"'open the drawer' with its state has .* tokens, more than the"),
    ):
        next(batches)


def test_workers_read_video_files(dataset: LeRobotDataset, transform: Transform) -> None:
    mixture = Mixture([Source(dataset, transform, 1.0)], 3)
    expected = take(mixture, 4)
    assert all(equal(a, b) for a, b in zip(take(mixture, 4, workers=1), expected, strict=True))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        Batches(toy(), 0)
    with pytest.raises(ValueError, match="workers is -1"):
        Batches(toy(), 2, workers=-1)
    mixture = toy()
    mixture.sources[0].dataset.preload()
    with pytest.raises(ValueError, match="workers have no effect on preloaded pictures"):
        Batches(mixture, 2, workers=1)


def threads() -> int:
    return sum(thread.name == "batches" for thread in threading.enumerate())


@pytest.mark.parametrize("workers", [0, 1])
def test_closing_stops_thread_and_workers(workers: int) -> None:
    before = threads()
    batches = Batches(toy(), 2, workers=workers)
    next(batches)
    assert threads() == before + 1
    assert len(active_children()) == workers
    batches.close()
    batches.close()
    assert threads() == before
    assert not active_children()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_abandoned_batches_stop_thread_and_workers(workers: int) -> None:
    before = threads()
    batches = Batches(toy(), 2, workers=workers)
    next(batches)
    del batches
    gc.collect()
    deadline = time.monotonic() + 20
    while (threads() > before or active_children()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threads() == before
    assert not active_children()


def test_ctrl_c_ends_a_run_with_workers_without_a_word_from_them(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_loader import Batches, toy
if __name__ == "__main__":
    batches = Batches(toy(delay_s=0.01), 4, workers=2)
    next(batches)
    try:
        print("ready", flush=True)
        time.sleep(100)
    except KeyboardInterrupt:
        next(batches)  # they go on: the step that was begun is finished
        print("saved", flush=True)
""")
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert (out, error, process.returncode) == ("saved\n", "", 0)
