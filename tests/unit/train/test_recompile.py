"""Code that is compiled after the warm-up stops the run."""

from collections.abc import Iterator

import pytest
import torch

from pizero.train.recompile import CompileCheck


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_other_shapes_after_the_warm_up_name_the_step() -> None:
    double = torch.compile(lambda x: 2 * x, backend="eager", dynamic=False)
    check = CompileCheck(enabled=True)
    for step in range(1, 6):
        double(torch.ones(min(step, 3)))
        check.after_step(step)
    double(torch.ones(7))
    with pytest.raises(RuntimeError, match="step 6: 1 parts of the network were compiled again after the warm-up"):
        check.after_step(6)
    check.after_step(7)


def test_the_first_validation_may_compile_and_the_second_may_not() -> None:
    double = torch.compile(lambda x: 2 * x, backend="eager", dynamic=False)
    check = CompileCheck(enabled=True)
    for step in range(1, 6):
        check.after_step(step)
    double(torch.ones(2))
    check.after_validation(5)
    check.after_step(6)
    double(torch.ones(3))
    with pytest.raises(RuntimeError, match="the validation after step 6"):
        check.after_validation(6)


def test_a_run_that_compiles_nothing_is_not_watched() -> None:
    check = CompileCheck(enabled=False)
    torch.compile(lambda x: 2 * x, backend="eager")(torch.ones(2))
    for step in range(1, 6):
        check.after_step(step)
