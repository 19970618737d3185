import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from pizero.command.policy import folder_sha256, is_address, open_policy
from pizero.data.prompt import Tokenizer, train_tokenizer
from pizero.data.stats import DatasetStats, Stats
from pizero.data.transform import Transform, TransformConfig
from pizero.frame import Frame
from pizero.model.config import GemmaConfig, Pi0Config, SiglipConfig
from pizero.model.pi0 import Pi0
from pizero.robot.bridge import BRIDGE
from pizero.robot.libero import LIBERO
from pizero.weights.checkpoint import save_checkpoint

FRAME = Frame({"image_primary": np.full((9, 9, 3), 80, np.uint8)}, np.ones(7, np.float32), "put it there")


@pytest.fixture(scope="module")
def folder(randomise, tmp_path_factory: pytest.TempPathFactory) -> Path:
    gemma = {"depth": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 12}
    config = Pi0Config(
        vision=SiglipConfig(width=20, depth=2, mlp_dim=36, num_heads=2, image_size=12, patch_size=6),
        vlm=GemmaConfig(width=32, mlp_dim=40, **gemma),
        action=GemmaConfig(width=24, mlp_dim=28, **gemma),
        vocab_size=300,
        state_dim=7,
        action_dim=7,
        horizon=3,
    )
    rng = np.random.default_rng(0)
    stats = DatasetStats(Stats.of(rng.normal(size=(50, 7))), Stats.of(rng.normal(size=(50, 7))))
    sizes = TransformConfig(BRIDGE, image_size=12, prompt_length=12, state_dim=7, action_dim=7, horizon=3)
    model = Pi0(config)
    randomise(model, std=0.1)
    path = tmp_path_factory.mktemp("policy") / "step-7"
    transform = Transform(sizes, stats, Tokenizer(train_tokenizer(["put it there"], 300)))
    save_checkpoint(path, lambda file: save_file(model.state_dict(), str(file)), config, transform)
    return path


def test_a_served_policy_plans_what_the_checkpoint_plans(folder: Path) -> None:
    server = pytest.importorskip("pizero.serve.server")
    with open_policy(str(folder), "cpu", num_steps=2) as local:
        expected = local.policy.act_batch([FRAME, FRAME], [3, 4])
        with (
            server.PolicyServer(local.policy, "127.0.0.1", 0, {"checkpoint": "mine"}) as served,
            open_policy(served.address) as remote,
        ):
            np.testing.assert_array_equal(remote.policy.act_batch([FRAME, FRAME], [3, 4]), expected)
            assert (remote.horizon, remote.policy.embodiment, remote.name) == (3, BRIDGE, served.address)
            assert "mine" in str(remote.identity)
            with pytest.raises(ValueError, match="for another robot"), open_policy(served.address, robot=LIBERO.name):
                pass


def test_what_tells_a_policy_from_others_is_in_its_files_not_in_their_place(folder: Path, tmp_path: Path) -> None:
    with open_policy(str(folder), "cpu", num_steps=2) as opened:
        assert (opened.name, opened.horizon, opened.captures) == ("step-7", 3, False)
        assert opened.identity == {
            "sha256": folder_sha256(folder),
            "num_steps": 2,
            "device": "cpu",
            "dtype": "float32",
            "compiled": False,
        }
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert folder_sha256(moved) == folder_sha256(folder)
    (moved / "train.json").write_text("{}")  # only for training that goes on
    assert folder_sha256(moved) == folder_sha256(folder)
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    assert folder_sha256(moved) != folder_sha256(folder)


@pytest.mark.parametrize("option", [{"num_steps": 10}, {"device": "cpu"}, {"compile": False}])
def test_options_of_a_served_policy_are_the_servers(option: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="are the server's choice"), open_policy("ws://127.0.0.1:9", **option):
        pass


def test_an_address_is_no_folder() -> None:
    assert is_address("ws://gpu:8000")
    assert is_address("wss://gpu:8000")
    assert not is_address("runs/demo/checkpoint")
