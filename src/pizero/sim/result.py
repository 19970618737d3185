"""What an evaluation found, as a report shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pizero.sim.compare import Comparison
from pizero.sim.count import Count
from pizero.sim.outcome import EpisodeResult
from pizero.sim.plot import Plot


@dataclass(frozen=True)
class TaskRow:
    """One task: the policy and what it is compared with."""

    task: str
    """Name of the task."""
    prompt: str
    """Its instruction."""
    policy: Count
    """How the policy did."""
    baselines: Mapping[str, Count] = field(default_factory=dict)
    """Name of a baseline -> how it did, in the same episodes. Every row has the same names."""
    steps_to_success: float | None = None
    """Control steps until the policy's solved episodes were solved for the first time, on average; None without one."""
    repeated: int = 0
    """Episodes that were played again after a crash of the simulator; most of them count as any other."""


@dataclass(frozen=True)
class Film:
    """A video or picture file with what it shows. The page holds a copy of it."""

    path: Path
    """An .mp4 or .png file."""
    caption: str
    """Said under it."""


@dataclass(frozen=True)
class Stage:
    """Something that took time."""

    name: str
    """What was done."""
    seconds: float
    """Wall time."""
    note: str = ""
    """For example a rate."""


@dataclass(frozen=True)
class Throughput:
    """How fast episodes were played."""

    episodes: int
    """Played in the time below; those of an earlier, stopped run do not count."""
    seconds: float
    """Wall time, the start of the simulators included."""
    policy_seconds: float
    """The part of it in which the policy was waited for; in the rest, the simulators."""
    workers: int
    """Simulator processes."""

    @property
    def per_minute(self) -> float:
        """Episodes a minute."""
        return 60 * self.episodes / self.seconds if self.seconds > 0 else 0.0

    @property
    def policy_share(self) -> float:
        """Share of the wall time that went to the policy, in [0, 1]."""
        return self.policy_seconds / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Command:
    """What a reader may want to type."""

    line: str
    """The command."""
    meaning: str
    """What it does."""


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows. What is empty is left out of the page."""

    title: str
    """Heading of the page."""
    summary: str = ""
    """A sentence or two under the headline."""
    policy_name: str = "policy"
    """What tables and charts call the policy."""
    rows: tuple[TaskRow, ...] = ()
    """Success per task."""
    plots: tuple[Plot, ...] = ()
    """Curves, such as the loss."""
    strips: tuple[Film, ...] = ()
    """Rows of stills."""
    videos: tuple[Film, ...] = ()
    """Films of episodes."""
    stages: tuple[Stage, ...] = ()
    """Where the time went."""
    throughput: Throughput | None = None
    """How fast it went."""
    comparison: Comparison | None = None
    """Beside another evaluation."""
    errors: tuple[str, ...] = ()
    """A line for each episode that an error ended."""
    commands: tuple[Command, ...] = ()
    """How to go on."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Facts about the run: sizes, steps, machine."""
    made_by: str = ""
    """The command line that made the report."""

    @property
    def total(self) -> Count:
        """What the policy did in all tasks together."""
        return sum((row.policy for row in self.rows), Count(0, 0))

    @property
    def baseline_totals(self) -> dict[str, Count]:
        """The same of each baseline."""
        names = self.rows[0].baselines if self.rows else {}
        return {name: sum((row.baselines[name] for row in self.rows), Count(0, 0)) for name in names}

    @property
    def mean_rate(self) -> float | None:
        """Mean of the tasks' rates, each task counting the same; None where one has no counted episode."""
        return mean_rate([row.policy for row in self.rows])


def mean_rate(counts: Sequence[Count]) -> float | None:
    """Mean of the rates, whatever the numbers of episodes; None without counts, or where one has no episode."""
    rates = [count.rate for count in counts if count.rate is not None]
    return sum(rates) / len(rates) if rates and len(rates) == len(counts) else None


def task_rows(
    policy: Sequence[EpisodeResult], baselines: Mapping[str, Sequence[EpisodeResult]] | None = None
) -> tuple[TaskRow, ...]:
    """One row per task, in the order in which the policy's results name them."""
    return tuple(
        _task_row(
            task,
            [result for result in policy if result.task == task],
            {name: [r for r in results if r.task == task] for name, results in (baselines or {}).items()},
        )
        for task in dict.fromkeys(result.task for result in policy)
    )


def _task_row(task: str, policy: Sequence[EpisodeResult], baselines: Mapping[str, Sequence[EpisodeResult]]) -> TaskRow:
    steps = [result.first_success for result in policy if result.success and result.first_success is not None]
    return TaskRow(
        task,
        next((result.prompt for result in policy if result.prompt), ""),
        Count.of(policy),
        {name: Count.of(results) for name, results in baselines.items()},
        sum(steps) / len(steps) if steps else None,
        sum(result.attempts > 1 for result in policy),
    )
