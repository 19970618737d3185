"""Our conversions for SimplerEnv's two robots against open-pi-zero's adapters: every array of the golden case."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

CASE = Path(__file__).parent / "golden" / "data_simpler_env_adapter"
TOOL = Path(__file__).parents[2] / "tools" / "verify_simpler.py"

ARCCOS = {"euler_angle", "bridge_env_actions_gaussian", "fractal_env_actions_gaussian"}
"""The reference takes the angle from its cosine, which near 0 is right to 2e-8 only (an angle of 1e-9 it calls 0)."""


with np.load(CASE / "expected.npz") as _file:
    EXPECTED = dict(_file)


@pytest.fixture(scope="module")
def ours() -> dict[str, np.ndarray]:
    spec = importlib.util.spec_from_file_location("verify_simpler", TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    with np.load(CASE / "inputs.npz") as inputs:
        return tool.outputs(dict(inputs))


def test_we_return_every_array_of_the_case_and_no_other(ours: dict[str, np.ndarray]) -> None:
    assert set(ours) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_we_return_what_the_reference_returned(ours: dict[str, np.ndarray], name: str) -> None:
    np.testing.assert_allclose(ours[name], EXPECTED[name], rtol=0, atol=2e-8 if name in ARCCOS else 1e-9)
