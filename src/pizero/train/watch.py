"""What a run tells about itself while it goes on: lines of metrics, and validations."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from pizero.data.mix import Mixture
from pizero.train.averaged import averaged
from pizero.train.flops import find_card, flops_per_sample
from pizero.train.log import Interval, Log, Progress, memory_gib, print_validation
from pizero.train.report import write_report
from pizero.train.state import TrainState
from pizero.train.step import StepResult
from pizero.train.validate import Piece, make_pieces, validate
from pizero.train.world import World


@dataclass(frozen=True)
class News:
    """What processes tell each other after a step."""

    fraction: float
    """Part of the time limit that has passed."""
    signal: int
    """Number of the signal that asks to stop; 0: none."""
    waited_s: float
    """Time of waiting for data in this step."""
    skipped: int
    """Frames of this step that were replaced."""
    restarts: int
    """Loader processes that were replaced so far."""

    def shared(self, world: World) -> "News":
        """The same in all processes: the clock of the first, the longest wait, and the sum of what went wrong."""
        told = world.gather([self.fraction, self.signal, self.waited_s, self.skipped, self.restarts])
        _, signals, waits, skipped, restarts = zip(*told, strict=True)
        return News(told[0][0], int(max(signals)), max(waits), int(sum(skipped)), int(sum(restarts)))


class Watch:
    """Sums up steps, and tells them once per `log_every`; validates when it is time.

    Every process has one, of which that of the first process alone writes and prints.
    """

    def __init__(
        self,
        state: TrainState,
        mixture: Mixture,
        log: Log | None,
        progress: Callable[[Progress], None] | None,
        began: float,
    ) -> None:
        """`log` and `progress` are None in the processes that tell nothing; `began` is when the run did, by
        time.monotonic.
        """
        self._state, self._mixture, self._log, self._progress = state, mixture, log, progress
        self._began = began
        self._first_step_s: float | None = None
        self._told_first_step = False
        self._restarts = 0
        self._pieces: list[Piece] | None = None
        self._ideal_s = _ideal_s(state, mixture)
        self.loss = 0.0
        """Mean loss of the newest line of metrics, or, where one is not full, of the steps since the last."""

    def step(self, result: StepResult, seconds: float, news: News, done: float, left_s: float) -> None:
        """One step was done, in `seconds`; `done` is the part of the run that is, `left_s` the time that is allowed."""
        if self._first_step_s is None:
            self._first_step_s = time.monotonic() - self._began
        state, config = self._state, self._state.config
        state.interval = state.interval.add(
            result.loss, result.grad_norm, seconds, news.waited_s, news.skipped, news.restarts - self._restarts
        )
        self._restarts = news.restarts
        self.loss = state.interval.loss / state.interval.num_steps
        if done < 1 and state.step % config.log_every:
            return
        metrics = state.interval.metrics(
            state.step,
            result.lr,
            config.batch_size,
            state.seconds,
            vlm_lr=result.vlm_lr,
            ideal_s=self._ideal_s,
            memory_gib=memory_gib(state.device),
            first_step_s=None if self._told_first_step else self._first_step_s,
        )
        self._told_first_step = True
        left = min((config.steps - state.step) * state.interval.seconds_per_step, left_s)
        state.interval = Interval()
        if self._log is not None:
            self._log(metrics)
        if self._progress is not None:
            self._progress(Progress(metrics, config.steps, min(done, 1.0), left))

    def validates(self, last: bool) -> bool:
        """Whether a validation is due after this step: episodes are held out, and it is time, or the `last` step."""
        config = self._state.config
        return config.data.held_out > 0 and (last or self._state.step % config.validate_every == 0)

    def validation(self) -> None:
        """Validate; all processes take part."""
        state = self._state
        if self._pieces is None:
            rows = self._mixture.validation_rows(state.config.validate_frames)
            sources = [(source.dataset, source.transform) for source in self._mixture.sources]
            self._pieces = make_pieces(sources, *rows, state.config, state.world.rank, state.world.size)
        weights = None
        if state.ema is not None:
            weights = partial(averaged, state.model, state.parameters, state.ema.average)
        result = validate(state.model, self._pieces, state.config, state.step, weights=weights, reduce=state.world.sum)
        if self._log is not None:
            self._log.validation(result)
            print_validation(result)
            self.report()

    def report(self, ended: str = "") -> None:
        """Write the page of the run, which says how it `ended`; "": it goes on."""
        if self._log is not None:
            write_report(self._state.config, self._state.device, self._state.world.size, ended)


def _ideal_s(state: TrainState, mixture: Mixture) -> float | None:
    """Seconds that a sample would take at the peak of all cards together; None where the card's is not known."""
    if state.device.type != "cuda":
        return None
    card = find_card(torch.cuda.get_device_name(state.device))
    if card is None:
        return None
    config = state.config
    flops = flops_per_sample(
        config.model, mixture.num_views, mixture.prompt_length, config.draws, config.tune, config.lora
    )
    return flops / (card.flops * state.world.size)
