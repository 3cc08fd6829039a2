"""Render results as text for the terminal and as Markdown. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.result import Cell, Result, Table, Target
from benchmarks.statistics import spread


def text(result: Result) -> str:
    """Return a result as text for the terminal."""
    lines = [f"{result.name}: {result.title}", ""]
    for table in result.tables:
        lines += [table.title, *_aligned(table), *([table.note] if table.note else []), ""]
    lines += [f"{t.name}: {_value(t)}{_rounds(t)} (target: {_limit(t)}) {t.verdict}" for t in result.targets]
    lines += [f"not measured: {name}: {reason}" for name, reason in result.skipped.items()]
    return "\n".join([*lines, f"took {result.duration_s:.0f} s", ""])


def markdown(table: Table) -> list[str]:
    """Return the lines of a table in Markdown."""
    return [
        _row(table.columns),
        "|" + "|".join(" --- " if n == 0 else " ---: " for n in range(len(table.columns))) + "|",
        *(_row(format_cell(cell) for cell in row) for row in table.rows),
    ]


def targets(results: list[Result]) -> list[str]:
    """Return the table of the performance targets of all benchmarks, in Markdown."""
    rows: list[tuple[Cell, ...]] = [
        (target.name, _value(target), target.rounds, _limit(target), target.verdict, f"`{result.name}`")
        for result in results
        for target in result.targets
    ]
    return markdown(Table("", ("what", "measured", "over the rounds", "target, at most", "verdict", "benchmark"), rows))


def format_cell(cell: Cell) -> str:
    """Return a table cell as text, with thousands separators."""
    match cell:
        case None:
            return ""
        case int():
            return f"{cell:,}"
        case float():
            return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.4g}"
        case str():
            return cell


def format_ratio(value: float) -> str:
    """Return a ratio as text, such as 1/30 or 1.3 x."""
    return f"1/{1 / value:.3g}" if 0 < value <= 0.5 else f"{value:.3g} x"


def format_range(values: Sequence[float], number: Callable[[float], str] = "{:.3g}".format) -> str:
    """Return the lowest and the highest value as text, or an empty string for a single value."""
    return f"{number(min(values))} to {number(max(values))}" if len(values) > 1 else ""


def format_median(values: Sequence[float]) -> str:
    """Return the median ± half the interquartile range as text."""
    median, deviation = spread(values)
    return f"{median:.3g} ± {deviation:.2g}"


def _value(target: Target) -> str:
    return "-" if target.value is None else _with_unit(target, float(target.value))


def _rounds(target: Target) -> str:
    return f", over the rounds {target.rounds}" if target.rounds else ""


def _limit(target: Target) -> str:
    return _with_unit(target, float(target.limit))


def _with_unit(target: Target, value: float) -> str:
    return f"{format_cell(value)} {target.unit}" if target.unit else format_ratio(value)


def _row(cells: object) -> str:
    assert hasattr(cells, "__iter__")
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _aligned(table: Table) -> list[str]:
    rows = [list(table.columns), *([format_cell(cell) for cell in row] for row in table.rows)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(table.columns))]
    return [
        "  ".join(row[n].rjust(width) if n else row[n].ljust(width) for n, width in enumerate(widths)) for row in rows
    ]
