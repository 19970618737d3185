"""How many episodes a policy solved, and how sure the rate is."""

from collections.abc import Iterable
from dataclasses import dataclass

from pizero.sim.interval import wilson
from pizero.sim.outcome import EpisodeResult


@dataclass(frozen=True)
class Count:
    """Successes among the episodes that count."""

    successes: int
    """Episodes solved."""
    episodes: int
    """Episodes played to their end."""
    errors: int = 0
    """Episodes that a crash of the simulator ended; not among `episodes`."""

    @classmethod
    def of(cls, results: Iterable[EpisodeResult]) -> "Count":
        """Counts results of one policy."""
        results = list(results)
        played = [result for result in results if result.error is None]
        return cls(sum(result.success for result in played), len(played), len(results) - len(played))

    @property
    def rate(self) -> float | None:
        """Share of successes, None without episodes."""
        return self.successes / self.episodes if self.episodes else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of the rate (Wilson), None without episodes."""
        return wilson(self.successes, self.episodes) if self.episodes else None

    def __add__(self, other: "Count") -> "Count":
        return Count(self.successes + other.successes, self.episodes + other.episodes, self.errors + other.errors)
