"""The success table of a report as text."""

from collections.abc import Sequence

from pizero.sim.compare import Comparison, Pairs
from pizero.sim.count import Count
from pizero.sim.result import TaskRow, mean_rate


def print_rows(rows: Sequence[TaskRow], policy_name: str) -> None:
    """Print one line per task: solved of played, the share, its 95 % interval, and errors, for the policy and each
    baseline; then all tasks together, and the mean of their shares."""
    names = [policy_name, *(rows[0].baselines if rows else {})]
    columns = [[row.policy for row in rows], *([row.baselines[name] for row in rows] for name in names[1:])]
    _line("task", names)
    for row in rows:
        _line(row.task, [_cell(count) for count in (row.policy, *row.baselines.values())])
    if len(rows) > 1:
        _line("all", [_cell(sum(column, Count(0, 0))) for column in columns])
        _line("mean over tasks", [_percent(mean_rate(column)) for column in columns])


def print_comparison(comparison: Comparison) -> None:
    """Print one line per task of two runs on their common episodes, with McNemar's p value."""
    print(f"first: {comparison.names[0]}\nsecond: {comparison.names[1]}")
    for difference in comparison.differences:
        print(f"  {difference}")
    _line("task", ["first", "second", "only first, only second", "p (McNemar)"])
    for pairs in (*comparison.tasks, *([comparison.total] if len(comparison.tasks) > 1 else [])):
        _line(pairs.name, _pairs(pairs))
    if comparison.left_out:
        print(f"{comparison.left_out} common episodes left out, since an error ended them in one of the runs")
    if any(comparison.unpaired):
        print(f"without a partner: {comparison.unpaired[0]} of the first, {comparison.unpaired[1]} of the second")


def _line(name: str, cells: Sequence[str]) -> None:
    print(f"{name:32}" + "".join(f"  {cell:>24}" for cell in cells))


def _pairs(pairs: Pairs) -> list[str]:
    return [
        _cell(pairs.first),
        _cell(pairs.second),
        f"{pairs.only_first}, {pairs.only_second}",
        f"{pairs.p_value:.3g}",
    ]


def _cell(count: Count) -> str:
    errors = f" +{count.errors} errors" if count.errors else ""
    if count.rate is None or count.interval is None:
        return "-" + errors
    low, high = count.interval
    return f"{count.successes}/{count.episodes} {100 * count.rate:.0f} % ({100 * low:.0f}-{100 * high:.0f}){errors}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
