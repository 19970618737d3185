"""Notices that torch.compile compiles again in the middle of a run, which costs minutes each time."""

from torch._dynamo.utils import counters

WARM_UP_STEPS = 3
"""Steps in which compiling is expected."""


class CompileCheck:
    """Counts what is compiled: in the first steps and in the first validation, and never after."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._seen = _num_graphs()
        self._steps = 0
        self._validations = 0

    def after_step(self, step: int) -> None:
        """Raises RuntimeError that names the step when code was compiled in it after the warm-up."""
        self._steps += 1
        self._check(self._steps > WARM_UP_STEPS, f"step {step}")

    def after_validation(self, step: int) -> None:
        """Raises RuntimeError when code was compiled in a validation after the first."""
        self._validations += 1
        self._check(self._validations > 1, f"the validation after step {step}")

    def _check(self, warm: bool, place: str) -> None:
        before, self._seen = self._seen, _num_graphs()
        if self._enabled and warm and self._seen > before:
            raise RuntimeError(
                f"{place}: {self._seen - before} parts of the network were compiled again after the warm-up: shapes "
                "or settings changed, which they must not. Give --no-compile, and report it; TORCH_LOGS=recompiles "
                "says why"
            )


def _num_graphs() -> int:
    return int(counters["stats"]["unique_graphs"])
