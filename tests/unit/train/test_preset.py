import json

import pytest
import tyro

from pizero.model.summary import summarise
from pizero.train.config import config_from_json, config_to_json
from pizero.train.preset import debug, make_preset, presets, tiny_model


@pytest.mark.parametrize("name", presets())
def test_every_preset_has_its_own_name_and_survives_json(name: str) -> None:
    config = presets()[name]()
    assert config.name == name
    assert config_from_json(json.loads(json.dumps(config_to_json(config))), "here") == config


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_a_command_line(name: str) -> None:
    config = tyro.cli(
        type(presets()[name]()),
        default=presets()[name](),
        args=["--optim.lr", "0.5", "--data.root", "here", "--model.vlm.width", "64", "--no-tensorboard"],
    )
    assert (config.optim.lr, str(config.data.root), config.model.vlm.width) == (0.5, "here", 64)
    assert not config.tensorboard


def test_an_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no preset 'bridg'; did you mean bridge\? All presets: debug, demo"):
        make_preset("bridg")
    assert make_preset("debug") == debug()


def test_the_released_preset_has_the_released_size() -> None:
    assert sum(part.num_parameters for part in summarise(presets()["pi0"]().model)) > 3.2e9
    assert sum(part.num_parameters for part in summarise(tiny_model())) < 4e6  # 16 MB
