"""The success table of a report as text."""

from collections.abc import Sequence

from pizero.sim.report import Count, TaskRow


def print_rows(rows: Sequence[TaskRow], policy_name: str) -> None:
    """Print one line per task: solved of played, the share, and its 95 % interval, for the policy and each baseline."""
    names = [policy_name, *(rows[0].baselines if rows else {})]
    print(f"{'task':32}" + "".join(f"  {name:>24}" for name in names))
    for row in rows:
        print(f"{row.task:32}" + "".join(f"  {_cell(count):>24}" for count in (row.policy, *row.baselines.values())))


def _cell(count: Count) -> str:
    if count.rate is None or count.interval is None:
        return "-"
    low, high = count.interval
    return f"{count.successes}/{count.episodes} {100 * count.rate:.0f} % ({100 * low:.0f}-{100 * high:.0f})"
