"""The data of a run: its data sets, their statistics, and how their frames become what the model takes."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from pizero.data.augment import Augmentation
from pizero.data.dataset import Dataset, open_dataset
from pizero.data.mix import Mixture, Source
from pizero.data.prompt import Tokenizer, train_tokenizer
from pizero.data.source import Robot, group_robots
from pizero.data.stats import DatasetStats, joint_stats
from pizero.data.transform import Transform, TransformConfig, refuse_constant
from pizero.data.units import Units
from pizero.embodiment import Embodiment
from pizero.train.config import AugmentConfig, TrainConfig
from pizero.train.initial import check_init
from pizero.weights.checkpoint import check_fit, is_checkpoint, load_configs


@dataclass(frozen=True)
class Recordings:
    """The data sets of a run, and the statistics that it normalises with."""

    datasets: tuple[Dataset, ...]
    """In the config's order."""
    weights: tuple[float, ...]
    """Part of a batch that comes from each."""
    robots: tuple[Robot, ...]
    """Which data sets are of one robot."""
    stats: tuple[DatasetStats, ...]
    """Of all data of each robot: of relative chunks, where the run has some."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """Every instruction that occurs, once."""
        return tuple(dict.fromkeys(prompt for dataset in self.datasets for prompt in dataset.prompts))

    def close(self) -> None:
        """Closes the files."""
        for dataset in self.datasets:
            dataset.close()


def open_recordings(config: TrainConfig) -> Recordings:
    """The data of the run; pictures are decoded first where the config says so.

    Raises ValueError when no folder is given, one holds no data set, or the data sets do not go together.
    """
    folders = config.data.sources()
    if not folders:
        raise ValueError(
            "data.root is not set; give the folder of a data set with --data.root, several with --data.mix"
        )
    with ExitStack() as stack:
        datasets = []
        for folder, _ in folders:
            datasets.append(open_dataset(folder))
            stack.callback(datasets[-1].close)
        robots = group_robots(datasets)
        stats = []
        for robot in robots:
            units = Units.of(robot.embodiment, config.data.joint_units, config.data.delta_actions)
            stats.append(joint_stats([datasets[i] for i in robot.members], units, config.model.horizon))
        side = config.model.vision.image_size
        if config.data.preload:
            for dataset in datasets:
                dataset.preload((side, side), config.data.resize)
        stack.pop_all()
    return Recordings(tuple(datasets), tuple(weight for _, weight in folders), tuple(robots), tuple(stats))


def make_transforms(config: TrainConfig, recordings: Recordings) -> tuple[Transform, ...]:
    """How each robot's frames become observations; `make_transform` says what it raises."""
    return tuple(
        make_transform(config, robot.embodiment, stats, recordings.prompts)
        for robot, stats in zip(recordings.robots, recordings.stats, strict=True)
    )


def make_transform(
    config: TrainConfig, embodiment: Embodiment, stats: DatasetStats, prompts: tuple[str, ...]
) -> Transform:
    """How the frames of this robot become observations of this model.

    Raises ValueError when they do not fit: the robot is too wide, a prompt too long, a dimension without spread.
    """
    data, model = config.data, config.model
    transform_config = TransformConfig(
        embodiment=embodiment,
        normalization=data.normalization,
        raw_state=data.raw_state,
        raw_actions=data.raw_actions,
        image_size=model.vision.image_size,
        prompt_length=data.prompt_length,
        state_dim=model.state_dim,
        action_dim=model.action_dim,
        horizon=model.horizon,
        prompt_format=data.prompt_format,
        resize=data.resize,
        delta_actions=data.delta_actions,
        joint_units=data.joint_units,
    )
    refuse_constant(transform_config, stats)
    transform = Transform(transform_config, stats, find_tokenizer(config, prompts))
    check_fit(model, transform, f"run {config.name}")
    # now, not after the hours until the first batch with it; 1 is in bin 255, so that the state is at its longest
    longest = np.ones((len(prompts), len(embodiment.state)))
    transform.tokenizer.encode_batch(prompts, data.prompt_length, data.prompt_format, longest)
    return transform


def find_tokenizer(config: TrainConfig, prompts: tuple[str, ...]) -> Tokenizer:
    """The tokenizer that belongs to the token embeddings the run starts from."""
    given = config.data.tokenizer
    if config.init is not None and is_checkpoint(check_init(config.init)):
        if given is not None:
            raise ValueError(f"data.tokenizer has no effect: the checkpoint {config.init} brings its own; leave it out")
        return load_configs(config.init)[1].tokenizer
    if given is not None:
        return Tokenizer(given)
    if config.init is None:
        return Tokenizer(train_tokenizer(prompts, config.model.vocab_size))
    for name in ("tokenizer.model", "tokenizer.json"):
        if (config.init / name).is_file():
            return Tokenizer(config.init / name)
    raise ValueError(
        f"{config.init / 'tokenizer.model'} does not exist; give the tokenizer of that PaliGemma with --data.tokenizer"
    )


def make_mixture(config: TrainConfig, recordings: Recordings, transforms: Sequence[Transform]) -> Mixture:
    """The endless order of the run's samples; `transforms` are those of `recordings.robots`."""
    transform_of = {
        member: transform
        for robot, transform in zip(recordings.robots, transforms, strict=True)
        for member in robot.members
    }
    sources = [
        Source(dataset, transform_of[i], weight)
        for i, (dataset, weight) in enumerate(zip(recordings.datasets, recordings.weights, strict=True))
    ]
    return Mixture(sources, config.seed, config.data.held_out)


def make_augmentation(config: TrainConfig, mixture: Mixture) -> Augmentation | None:
    """Random changes of the pictures; None when the config asks for none."""
    chosen = config.data.augment
    if chosen == AugmentConfig():
        return None
    return Augmentation(
        config.seed,
        mixture.moving_views(chosen.still_cameras),
        chosen.crop,
        chosen.rotate_deg,
        chosen.shift_pixels,
        chosen.brightness,
        chosen.contrast,
        chosen.saturation,
    )


def check_same_data(transforms: Sequence[Transform], recordings: Recordings, place: str) -> None:
    """Raises ValueError when the data are not those that the checkpoint at `place` was trained on."""
    if len(transforms) != len(recordings.robots):
        raise ValueError(
            f"the data are of {len(recordings.robots)} robots, those of {place} of {len(transforms)}; give the same "
            f"data, or start a new run with --init {place}"
        )
    for transform, robot, stats in zip(transforms, recordings.robots, recordings.stats, strict=True):
        if difference := transform.config.embodiment.difference(robot.embodiment):
            raise ValueError(f"the data set is of another robot than that of {place}: {difference}")
        if transform.stats.to_json() != stats.to_json():
            raise ValueError(
                f"the data set has other statistics than that of {place}: it was changed, or is another one; "
                f"give data.root of the same data, or start a new run with --init {place}"
            )
