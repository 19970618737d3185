"""Policies to serve, and servers for them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from telling import ARM, TellingPolicy

from pizero.data.prompt import Tokenizer, train_tokenizer
from pizero.data.stats import DatasetStats, Stats
from pizero.data.transform import Transform, TransformConfig
from pizero.embodiment import Embodiment
from pizero.frame import Frame
from pizero.model.pi0 import Pi0
from pizero.policy.pi0_policy import Pi0Policy
from pizero.serve.server import PolicyServer, ServedPolicy
from pizero.weights.checkpoint import Checkpoint


@pytest.fixture
def make_policy(tiny_config, randomise) -> Callable[[], Pi0Policy]:
    """Makes the same tiny pi0 for `ARM` each time it is called."""

    def make() -> Pi0Policy:
        config = replace(tiny_config, vocab_size=300)
        rng = np.random.default_rng(0)
        stats = DatasetStats(Stats.of(rng.normal(size=(50, 3))), Stats.of(rng.normal(size=(50, 2))))
        sizes = TransformConfig(
            ARM,
            image_size=config.vision.image_size,
            prompt_length=12,
            state_dim=config.state_dim,
            action_dim=config.action_dim,
            horizon=config.horizon,
        )
        model = Pi0(config)
        randomise(model, std=0.1)
        tokenizer = Tokenizer(train_tokenizer(["open it", "close it"], 300))
        return Pi0Policy(Checkpoint(model.eval(), Transform(sizes, stats, tokenizer)), num_steps=4)

    return make


@pytest.fixture
def make_frame() -> Callable[..., Frame]:
    """Draws a frame of `ARM`, or of another robot, from a seed."""

    def make(seed: int, prompt: str = "open it", robot: Embodiment = ARM) -> Frame:
        rng = np.random.default_rng(seed)
        images = {camera: rng.integers(0, 256, (12, 14, 3), dtype=np.uint8) for camera in robot.cameras}
        return Frame(images, rng.normal(size=len(robot.state)).astype(np.float32), prompt)

    return make


@pytest.fixture
def telling() -> TellingPolicy:
    return TellingPolicy()


@pytest.fixture
def lines() -> list[str]:
    """What the server of `served` reports."""
    return []


@pytest.fixture
def served(lines: list[str]) -> Callable[..., PolicyServer]:
    """Serves a policy at a free port; use it in a `with` statement."""

    def start(policy: ServedPolicy, port: int = 0, **options: object) -> PolicyServer:
        return PolicyServer(policy, port=port, report=lines.append, **options)

    return start
