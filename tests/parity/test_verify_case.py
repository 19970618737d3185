"""tools/verify_case.py on the golden cases: those beside this file, and all where they lie beside the repository."""

import importlib.util
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"
FURTHER = Path(__file__).parents[3] / "shared" / "golden"
TOOLS = Path(__file__).parents[2] / "tools"


def cases(root: Path) -> list[Path]:
    """The folders that have a description."""
    return sorted(file.parent for file in root.rglob("case.json"))


@lru_cache
def load_tool() -> ModuleType:
    """The program as a module; it imports its neighbours."""
    spec = importlib.util.spec_from_file_location("verify_case", TOOLS / "verify_case.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(TOOLS))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(TOOLS))
    return module


def assert_agrees(folder: Path) -> None:
    """Every array, and at least one."""
    tool = load_tool()
    differences = list(tool.verify(tool.Case(folder)))
    assert differences
    wrong = [tool.line(difference) for difference in differences if not difference.ok]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", cases(GOLDEN), ids=lambda folder: str(folder.relative_to(GOLDEN)))
def test_every_array_of_a_case_agrees(folder: Path) -> None:
    assert_agrees(folder)


@pytest.mark.skipif(not FURTHER.is_dir(), reason="no folder shared/golden beside the repository")
@pytest.mark.parametrize("folder", cases(FURTHER), ids=lambda folder: str(folder.relative_to(FURTHER)))
def test_every_array_of_a_further_case_agrees(folder: Path) -> None:
    assert_agrees(folder)


def test_arrays_that_differ_are_found_by_either_measure() -> None:
    compare = load_tool().compare
    theirs = np.array([1.0, -100.0])
    assert compare("case", "array", theirs + 0.01, theirs, 1e-3, relative=True).ok
    assert not compare("case", "array", theirs + 0.01, theirs, 1e-3, relative=False).ok
    assert not compare("case", "array", theirs + 0.2, theirs, 1e-3, relative=True).ok
    assert not compare("case", "array", theirs * np.nan, theirs, 1e9, relative=True).ok
    with pytest.raises(SystemExit, match="shape"):
        compare("case", "array", theirs[:1], theirs, 1.0, relative=True)
