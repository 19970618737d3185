"""The data of a run, and how its frames become observations."""

from dataclasses import replace
from pathlib import Path

import pytest

from pizero.data.prompt import train_tokenizer
from pizero.data.source import Robot
from pizero.data.stats import DatasetStats
from pizero.data.transform import Transform
from pizero.embodiment import Embodiment
from pizero.train.config import DataConfig, TrainConfig
from pizero.train.recordings import Recordings, check_same_data, find_tokenizer, make_transform

CASE = Path(__file__).parents[2] / "parity" / "golden" / "lerobot_pi0_base" / "tokenizer"


def recordings(robot: Embodiment, *stats: DatasetStats) -> Recordings:
    return Recordings((), (), tuple(Robot(robot, (i,)) for i in range(len(stats))), stats)


def test_other_data_are_refused(transform: Transform, robot: Embodiment, stats: DatasetStats) -> None:
    check_same_data((transform,), recordings(robot, stats), "step-000003")
    other = replace(stats, state=replace(stats.state, count=51))
    with pytest.raises(ValueError, match=r"the data set has other statistics than that of step-000003"):
        check_same_data((transform,), recordings(robot, other), "step-000003")
    with pytest.raises(ValueError, match=r"another robot .*: name: arm against leg"):
        check_same_data((transform,), recordings(replace(robot, name="leg"), stats), "step-000003")
    with pytest.raises(ValueError, match="the data are of 2 robots, those of step-000003 of 1"):
        check_same_data((transform,), recordings(robot, stats, stats), "step-000003")


def test_the_tokenizer_belongs_to_the_embeddings(config: TrainConfig, saved: Path, paligemma: Path) -> None:
    tiny, other = train_tokenizer(["open it", "close it"], 300), train_tokenizer(["something else"], 300)
    prompts = ("something else",)
    assert find_tokenizer(config, prompts).model_bytes == other  # trained on the data set's own prompts
    assert find_tokenizer(replace(config, init=saved), prompts).model_bytes == tiny  # the checkpoint's
    with pytest.raises(ValueError, match=r"paligemma/tokenizer\.model does not exist; .* --data\.tokenizer"):
        find_tokenizer(replace(config, init=paligemma), prompts)
    (paligemma / "tokenizer.model").write_bytes(tiny)
    assert find_tokenizer(replace(config, init=paligemma), prompts).model_bytes == tiny
    given = DataConfig(tokenizer=paligemma / "tokenizer.model")
    assert find_tokenizer(replace(config, data=given), prompts).model_bytes == tiny
    json_file = CASE / "tokenizer.json"
    (paligemma / "tokenizer.model").unlink()
    (paligemma / "tokenizer.json").write_bytes(json_file.read_bytes())
    assert find_tokenizer(replace(config, init=paligemma), prompts).file_name == "tokenizer.json"
    given = DataConfig(tokenizer=json_file)
    assert find_tokenizer(replace(config, data=given), prompts).file_name == "tokenizer.json"
    with pytest.raises(ValueError, match=r"data\.tokenizer has no effect: the checkpoint .* brings its own"):
        find_tokenizer(replace(config, data=given, init=saved), prompts)


def test_the_transform_of_a_run_is_that_of_its_config(
    config: TrainConfig, robot: Embodiment, stats: DatasetStats
) -> None:
    data = DataConfig(
        normalization="quantile", delta_actions=("dy",), prompt_format="pi05", prompt_length=60, resize="lerobot"
    )
    made = make_transform(replace(config, data=data), robot, stats, ("open it",)).config
    assert (made.delta_actions, made.prompt_format, made.resize) == (("dy",), "pi05", "lerobot")
    with pytest.raises(ValueError, match=r"State: 255 255 255;.* prompt_length is 30"):
        make_transform(replace(config, data=replace(data, prompt_length=30)), robot, stats, ("open it",))


def test_a_dimension_without_spread_is_not_trained(config: TrainConfig, robot: Embodiment, stats: DatasetStats) -> None:
    q99 = stats.actions.q99.copy()
    q99[3] = stats.actions.q01[3]
    constant = DatasetStats(stats.state, replace(stats.actions, q99=q99))
    with pytest.raises(ValueError, match="'grip' has no spread"):
        make_transform(config, robot, constant, ("open it",))
    data = replace(config.data, raw_actions=("grip",))
    make_transform(replace(config, data=data), robot, constant, ("open it",))
