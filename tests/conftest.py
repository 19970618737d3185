"""What many tests need: a tiny pi0 with random weights, and a batch in which everything that can be padding is."""

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from pizero.model.config import GemmaConfig, Pi0Config, SiglipConfig
from pizero.model.pi0 import Pi0
from pizero.types import Observation


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The index of an RLDS data set is kept in the user's cache folder, which tests leave alone."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(autouse=True)
def nothing_compiled(request: pytest.FixtureRequest) -> None:
    """Torch compiles a function for 8 sets of shapes and then gives up; in one process the GPU tests need more."""
    if request.node.get_closest_marker("gpu"):
        torch.compiler.reset()


@pytest.fixture(scope="session")
def randomise() -> Callable[..., None]:
    """Draws all weights, norms and biases too: with the usual std of 0.02 a wrong GELU goes unseen."""

    def draw(module: nn.Module, seed: int = 0, std: float = 0.3) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(0, std, generator=generator)

    return draw


@pytest.fixture(scope="session")
def tiny_config() -> Pi0Config:
    """Two layers, width 32; no two sizes that could be confused are equal."""
    gemma = {"depth": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 12}
    return Pi0Config(
        vision=SiglipConfig(width=20, depth=2, mlp_dim=36, num_heads=2, image_size=12, patch_size=6),
        vlm=GemmaConfig(width=32, mlp_dim=40, **gemma),
        action=GemmaConfig(width=24, mlp_dim=28, **gemma),
        vocab_size=17,
        state_dim=6,
        action_dim=5,
        horizon=3,
    )


@pytest.fixture(scope="session")
def tiny_model(tiny_config: Pi0Config, randomise: Callable[..., None]) -> Pi0:
    """Shared by all tests: do not change it."""
    model = Pi0(tiny_config)
    randomise(model)
    return model.requires_grad_(False)


@pytest.fixture
def ragged(tiny_config: Pi0Config) -> Observation:
    """Three rows: nothing padded; a camera in the middle absent and a short prompt; the first camera absent."""
    generator = torch.Generator().manual_seed(7)
    side = tiny_config.vision.image_size
    return Observation(
        images=torch.rand(3, 3, 3, side, side, generator=generator) * 2 - 1,
        prompt=torch.randint(0, tiny_config.vocab_size, (3, 5), generator=generator),
        state=torch.randn(3, tiny_config.state_dim, generator=generator),
        image_mask=torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1]], dtype=torch.bool),
        prompt_mask=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], dtype=torch.bool),
    )
