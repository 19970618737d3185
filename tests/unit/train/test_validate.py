"""On a recorded data set of three short episodes, whose chunks end early."""

import math
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._dynamo.utils import counters

from pizero.data.lerobot import LeRobotDataset, LeRobotWriter
from pizero.data.recording import CorruptPicture
from pizero.data.stats import compute_stats
from pizero.data.transform import Transform
from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.model.pi0 import Pi0
from pizero.train.averaged import averaged, reshard
from pizero.train.config import LoraConfig, TrainConfig
from pizero.train.ema import Ema
from pizero.train.parallel import shard
from pizero.train.recordings import make_transform
from pizero.train.validate import Piece, make_pieces, validate
from pizero.train.validation import THRESHOLDS, Validation
from pizero.train.world import World
from pizero.types import Actions, Observation

FRAMES = np.array([0, 3, 4, 6, 9, 11, 13])
"""Some at the end of an episode; the last action of the chunks of 3 is then past it."""
TASKS = ("open it", "close it", "open it")


@pytest.fixture(scope="module")
def dataset(robot: Embodiment, tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    random, root = np.random.default_rng(3), tmp_path_factory.mktemp("held_out") / "data"
    with LeRobotWriter(root, robot, dict.fromkeys(robot.cameras, (16, 16))) as writer:
        for length, task in zip((5, 7, 4), TASKS, strict=True):
            frames = [
                Frame(
                    {camera: random.integers(0, 256, (16, 16, 3), np.uint8) for camera in robot.cameras},
                    random.normal(size=3).astype(np.float32),
                    task,
                )
                for _ in range(length)
            ]
            writer.add_episode(frames, random.uniform(-0.9, 0.9, (length, 4)).astype(np.float32), {})
    return LeRobotDataset(root)


@pytest.fixture
def own_transform(config: TrainConfig, dataset: LeRobotDataset) -> Transform:
    return make_transform(config, dataset.embodiment, compute_stats(dataset), dataset.prompts)


@pytest.fixture
def model(config: TrainConfig, randomise: Callable[..., None]) -> Pi0:
    network = Pi0(config.model)
    randomise(network)
    return network


@pytest.fixture
def pieces(config: TrainConfig, dataset: LeRobotDataset, own_transform: Transform) -> list[Piece]:
    return pieces_of(config, dataset, own_transform)


def pieces_of(
    config: TrainConfig, dataset: LeRobotDataset, transform: Transform, rank: int = 0, world_size: int = 1
) -> list[Piece]:
    return make_pieces([(dataset, transform)], np.zeros(len(FRAMES), int), FRAMES, config, rank, world_size)


def whole(pieces: list[Piece], count: int) -> tuple[Observation, Actions, Tensor, Tensor, Tensor]:
    """All frames that count as one batch."""
    keep = torch.cat([torch.from_numpy(piece.counts) for piece in pieces])
    draws = len(pieces[0].t) // len(pieces[0].start)

    def join(parts: list[Tensor], times: int = 1) -> Tensor:
        return torch.cat(parts)[keep.repeat_interleave(times)]

    observation = Observation(
        images=join([piece.observation.images for piece in pieces]),
        prompt=join([piece.observation.prompt for piece in pieces]),
        state=join([piece.observation.state for piece in pieces]),
    )
    actions = Actions(join([piece.actions.values for piece in pieces]), join([piece.actions.mask for piece in pieces]))
    assert all(piece.observation.prompt_mask is None for piece in pieces), "the prompts are equally long"
    assert keep.sum() == count
    t, noise = join([piece.t for piece in pieces], draws), join([piece.noise for piece in pieces], draws)
    return observation, actions, t, noise, join([piece.start for piece in pieces])


def numbers(validation: Validation) -> dict[str, object]:
    return {**validation.scalars(), "seconds": 0, "steps": validation.error_by_timestep, "n": validation.num_frames}


def assert_same(found: Validation, expected: Validation) -> None:
    for name, value in numbers(expected).items():
        assert numbers(found)[name] == pytest.approx(value, rel=1e-5), name


def test_the_loss_is_that_of_the_model_on_all_frames_at_once(
    config: TrainConfig, model: Pi0, pieces: list[Piece]
) -> None:
    observation, actions, t, noise, _ = whole(pieces, 7)
    assert [len(piece.counts) for piece in pieces] == [4, 4]
    with torch.no_grad():
        expected = model.loss(observation, actions, t, noise, config.sigma_min).item()
    found = validate(model, pieces, config, 5)
    assert found.loss == pytest.approx(expected, rel=1e-5)
    assert (found.step, found.num_frames, found.raw_loss) == (5, 7, None)


def near_to_samples(model: Pi0, pieces: list[Piece]) -> list[Piece]:
    """With recorded chunks, in model units, for which the thresholds matter."""
    generator, near = torch.Generator().manual_seed(1), []
    for piece in pieces:
        sampled = model.sample(piece.observation, 10, piece.start, action_mask=piece.transform.action_mask)
        values = sampled.clone() + 0.2 * torch.randn(sampled.shape, generator=generator)
        near.append(replace(piece, actions=Actions(values, piece.actions.mask)))
    return near


def test_errors_of_samples_are_those_counted_one_by_one(
    config: TrainConfig, model: Pi0, pieces: list[Piece], dataset: LeRobotDataset, own_transform: Transform
) -> None:
    pieces = near_to_samples(model, pieces)
    observation, actions, _, _, start = whole(pieces, 7)
    sampled = model.sample(observation, 10, start, action_mask=own_transform.action_mask)
    real = own_transform.invert_actions(sampled, dataset.state[FRAMES])
    ends, errors, real_errors = {0: 5, 3: 5, 4: 5, 6: 12, 9: 12, 11: 12, 13: 16}, {}, {}
    for row, frame in enumerate(FRAMES):
        for step in range(3):
            if frame + step < ends[int(frame)]:
                for i in range(4):
                    errors[row, step, i] = abs(sampled[row, step, i] - actions.values[row, step, i]).item()
                    real_errors[row, step, i] = abs(real[row, step, i] - dataset.actions[frame + step, i])
    assert len(errors) == 16 * 4  # of 21 timesteps 5 are past the end
    found = validate(model, pieces, config, 1)
    assert found.error == pytest.approx(np.mean(list(errors.values())), rel=1e-5)
    timesteps = {key[:2] for key in errors}
    for threshold in THRESHOLDS:
        right = sum(all(errors[*place, i] < threshold for i in range(4)) for place in timesteps)
        assert found.accuracy[str(threshold)] == pytest.approx(right / len(timesteps))
        below = np.mean([error < threshold for error in errors.values()])
        assert found.element_accuracy[str(threshold)] == pytest.approx(below)
    assert 1 > found.element_accuracy["0.2"] > found.accuracy["0.2"] > 0
    for step in range(3):
        expected = np.mean([error for key, error in errors.items() if key[1] == step])
        assert found.error_by_timestep[step] == pytest.approx(expected, rel=1e-5)
    (robot,) = found.robots
    assert (robot.robot, robot.actions) == ("arm", ("dx", "dy", "dz", "grip"))
    for i in range(4):
        assert robot.error[i] == pytest.approx(np.mean([e for k, e in real_errors.items() if k[2] == i]), rel=1e-4)
        assert robot.model_error[i] == pytest.approx(np.mean([e for k, e in errors.items() if k[2] == i]), rel=1e-5)
        assert robot.error[i] != pytest.approx(robot.model_error[i], rel=1e-2)


def test_a_model_that_does_not_move_is_wrong_by_the_noise_it_starts_from(
    config: TrainConfig, pieces: list[Piece]
) -> None:
    """Fresh weights have the velocity zero."""
    still = Pi0(config.model).init_weights(torch.Generator().manual_seed(0))
    _, actions, _, _, start = whole(pieces, 7)
    expected = (start - actions.values).abs()[actions.mask].mean().item()
    assert validate(still, pieces, config, 1).error == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_processes_together_find_what_one_finds(
    config: TrainConfig, model: Pi0, dataset: LeRobotDataset, own_transform: Transform, world_size: int
) -> None:
    """Seven frames: with two processes one row fills up, with eight a process has no frame at all."""
    ema = Ema(dict(model.named_parameters()), 0.9)
    for average in ema.average.values():
        average.mul_(0.9)
    weights = partial(averaged, model, dict(model.named_parameters()), ema.average)
    alone = validate(model, pieces_of(config, dataset, own_transform), config, 1, weights=weights)
    shares = [pieces_of(config, dataset, own_transform, rank, world_size) for rank in range(world_size)]
    assert len({tuple(len(piece.counts) for piece in share) for share in shares}) == 1
    told: list[Tensor] = []

    def add(sums: Tensor) -> Tensor:
        told.append(sums)
        return torch.stack(told).sum(0)

    for share in shares[:-1]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pizero.train.validate._summary", lambda *_, **__: alone)  # a share may have no frame
            validate(model, share, config, 1, weights=weights, reduce=add)
    assert_same(validate(model, shares[-1], config, 1, weights=weights, reduce=add), alone)


def test_the_average_and_the_weights_are_each_measured(config: TrainConfig, model: Pi0, pieces: list[Piece]) -> None:
    parameters = dict(model.named_parameters())
    ema = Ema(parameters, 0.9)
    raw = validate(model, pieces, config, 1)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.mul_(0.8)
    other = validate(model, pieces, config, 1)
    assert other.loss != pytest.approx(raw.loss, rel=1e-3)
    both = validate(model, pieces, config, 1, weights=partial(averaged, model, parameters, ema.average))
    assert (both.loss, both.raw_loss, both.error) == (raw.loss, other.loss, raw.error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_and_average_change_places_and_come_back_to_the_bit(model: Pi0, dtype: torch.dtype) -> None:
    model.cast(dtype)
    parameters = dict(model.named_parameters())
    ema = Ema(parameters, 0.9)
    for average in ema.average.values():
        average.mul_(1 / 3)
    weights = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    means = {name: average.clone() for name, average in ema.average.items()}
    with suppress(KeyError), averaged(model, parameters, ema.average):
        assert all(torch.equal(parameters[name], mean.to(parameters[name].dtype)) for name, mean in means.items())
        raise KeyError
    assert all(torch.equal(parameters[name], weight) for name, weight in weights.items())
    assert all(torch.equal(ema.average[name], mean) for name, mean in means.items())


def test_a_validation_leaves_no_trace(config: TrainConfig, model: Pi0, pieces: list[Piece]) -> None:
    parameters = dict(model.named_parameters())
    ema = Ema(parameters, 0.9)
    for average in ema.average.values():
        average.mul_(0.5)
    model.train()
    model.vision.eval()
    modes = [module.training for module in model.modules()]
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    validate(model, pieces, config, 1, weights=partial(averaged, model, parameters, ema.average))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(parameters[name], weight) for name, weight in before.items())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in parameters.values() if p.grad is not None)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.is_grad_enabled()


def test_the_same_weights_get_the_same_numbers_every_time(
    config: TrainConfig, model: Pi0, dataset: LeRobotDataset, own_transform: Transform
) -> None:
    one = validate(model, pieces_of(config, dataset, own_transform), config, 1)
    again = validate(model, pieces_of(replace(config, accumulate=2), dataset, own_transform), config, 1)
    assert_same(again, one)  # in other pieces
    seeded = validate(model, pieces_of(replace(config, seed=1), dataset, own_transform), config, 1)
    assert seeded.loss != pytest.approx(one.loss, rel=1e-3)


class Compiled(torch.nn.Module):
    """Without the checks of shapes that layers have in tests, which cannot be compiled."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.compile(backend="eager", dynamic=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_what_is_compiled_is_not_compiled_again(config: TrainConfig, model: Pi0, pieces: list[Piece]) -> None:
    plain = validate(model, pieces, config, 1)
    torch._dynamo.reset()
    model.projector = Compiled(model.projector)
    observation, actions, t, noise, _ = whole(pieces, 7)
    compiled = replace(config, compile=True)

    def train() -> float:
        loss = model.loss(observation, actions, t, noise)
        loss.backward()
        return loss.item()

    loss = train()
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    assert_same(validate(model, pieces, compiled, 1), plain)
    assert train() == loss
    assert counters["stats"]["unique_graphs"] == graphs


def test_dropout_of_adapters_is_off(
    config: TrainConfig, dataset: LeRobotDataset, own_transform: Transform, randomise: Callable[..., None]
) -> None:
    from pizero.train.tune import prepare

    lora = replace(config, tune="lora", lora=LoraConfig(rank=2, dropout=0.5), init=Path("unused"))
    model = Pi0(config.model)
    prepare(model, lora)
    randomise(model)
    pieces = pieces_of(lora, dataset, own_transform)
    assert validate(model, pieces, lora, 1).loss == validate(model, pieces, lora, 1).loss


class Damaged(LeRobotDataset):
    """Frame 4 cannot be decoded."""

    def frame(self, i: int | np.integer) -> Frame:
        if i == 4:
            raise CorruptPicture("videos/front.mp4 is damaged")
        return super().frame(i)


def test_a_corrupt_picture_stops_or_does_not_count(
    config: TrainConfig, model: Pi0, dataset: LeRobotDataset, own_transform: Transform, pieces: list[Piece]
) -> None:
    damaged = Damaged(dataset.root)
    with pytest.raises(ValueError, match=r"front\.mp4 is damaged"):
        pieces_of(config, damaged, own_transform)
    skipping = replace(config, data=replace(config.data, corrupt="skip"))
    found = pieces_of(skipping, damaged, own_transform)
    assert found[0].counts.tolist() == [True, True, False, True]
    assert not found[0].actions.mask[2].any()
    assert validate(model, found, skipping, 1).num_frames == 6
    everything = [replace(piece, counts=np.zeros(4, bool)) for piece in pieces]
    with pytest.raises(ValueError, match="no held-out frame can be decoded"):
        validate(model, everything, config, 1)


def test_without_a_held_out_frame_there_is_nothing_to_validate(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match=r"no held-out frame to validate on; give data\.held_out"):
        make_pieces([], np.zeros(0, int), np.zeros(0, int), config)


def test_two_robots_have_errors_of_their_own(
    config: TrainConfig, model: Pi0, dataset: LeRobotDataset, own_transform: Transform
) -> None:
    """The second has three of the four actions; its frames are in other pieces."""
    arm = dataset.embodiment
    small = replace(
        arm, name="small", actions=arm.actions[:3], action_low=arm.action_low[:3], action_high=arm.action_high[:3]
    )
    other = LeRobotDataset(dataset.root)
    other.embodiment, other.actions = small, dataset.actions[:, :3] * 0.5
    stats = compute_stats(dataset)
    narrow = replace(stats, actions=replace(stats.actions, **first_three(stats.actions)))
    transform = make_transform(config, small, narrow, dataset.prompts)
    sources = [(dataset, own_transform), (other, transform)]
    source, frame = np.array([0, 0, 1, 1]), np.array([0, 1, 5, 6])
    both = validate(model, make_pieces(sources, source, frame, config), config, 1)
    assert [len(robot.error) for robot in both.robots] == [4, 3]
    first = validate(model, make_pieces(sources[:1], source[:2], frame[:2], config), config, 1)
    # the list is shorter, so that all but the noise differs: the frames' errors are near, those of the robots are not
    assert both.robots[0].actions == first.robots[0].actions
    weighted = [np.sum(robot.model_error) for robot in both.robots]
    assert both.error == pytest.approx(np.sum(weighted) / 7, rel=1e-5)  # as many timesteps of each: 2 frames x 3


def first_three(stats: object) -> dict[str, np.ndarray]:
    return {name: value[:3] for name, value in vars(stats).items() if isinstance(value, np.ndarray)}


@pytest.fixture
def one_process_group() -> Iterator[None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process_group")
def test_a_sharded_model_is_measured_with_its_present_weights(
    config: TrainConfig, model: Pi0, pieces: list[Piece], randomise: Callable[..., None]
) -> None:
    """FSDP2 keeps whole weights that it has gathered when no backward pass follows."""
    plain = Pi0(config.model)
    plain.load_state_dict(model.state_dict())
    shard(model, World(0, 1), bf16=False)
    results = []
    for network in (plain, model):
        parameters = dict(network.named_parameters())
        ema = Ema(parameters, 0.9)
        for average in ema.average.values():
            average.mul_(0.8)
        weights = partial(averaged, network, parameters, ema.average)
        first = validate(network, pieces, config, 1, weights=weights)
        observation, actions, t, noise, _ = whole(pieces, 7)
        network.loss(observation, actions, t, noise).backward()
        with torch.no_grad():
            for parameter in parameters.values():
                if parameter.grad is not None:
                    parameter -= 1e-3 * parameter.grad
        reshard(network)
        results.append((first, validate(network, pieces, config, 2, weights=weights)))
    for expected, found in zip(*results, strict=True):
        assert_same(found, expected)
    first, second = results[0]
    assert first.raw_loss is not None
    assert math.isfinite(first.raw_loss)
    assert first.raw_loss != pytest.approx(second.raw_loss, rel=1e-3)
    assert first.loss == second.loss
    assert first.loss != pytest.approx(first.raw_loss, rel=1e-3)
