"""`make bench-report`: REPORT.md and its plots, out of the JSON that the benchmarks wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks import render
from benchmarks.result import OUT, Machine, Plot, Result, load

HERE = Path(__file__).parent
ORDER = ("ladder", "transfers", "instructions", "start", "seen", "baseline", "peers", "workloads", "scale")
EXPERIMENTS = HERE / "experiments.md"
"""What was tried to make it cheaper, by hand: what a measurement alone does not tell."""
_HEAD = """# What ebpfmon costs

Written by `make bench-report` from what `make bench` (and `make bench-instructions`) measured, good or bad. Each
benchmark can be run again alone, with `make bench ARGS=NAME`.

- Everything that is compared was measured on the same machine in the same run, and ratios are what counts: another
  machine has other figures.
- What is compared takes turns, round after round, so that a noisy moment hits all alike; a figure is the median
  round's (or, of many short ones, the first quartile's). How far the rounds went is shown beside it, as "lowest to
  highest" or as "median ± half the distance between the quartiles"; where it is not, there was one round.
- An empty cell: there is no such number, or it was not measured; the reason is below the table.
"""

_BARS = (
    "What is measured must not be above its bar. A ratio is what ebpfmon takes of what the other takes: 1/30 is a "
    "thirtieth of it."
)


def write(found: Path = OUT, into: Path = HERE, draw: Callable[[Plot], bytes] | None = None) -> str:
    """Write the report of all results that are there; returns what was written."""
    if draw is None:
        from benchmarks import plots  # needs matplotlib

        draw = plots.svg
    results = [load(path) for path in (found / f"{name}.json" for name in ORDER) if path.exists()]
    if not results:
        return f"nothing was measured yet: no results in {found}: run make bench"
    pictures = into / "plots"
    pictures.mkdir(exist_ok=True)
    drawn = 0
    for plot in (plot for result in results for plot in result.plots):
        (pictures / f"{plot.name}.svg").write_bytes(draw(plot))
        drawn += 1
    experiments = EXPERIMENTS.read_text(encoding="utf-8") if EXPERIMENTS.exists() else ""
    report = into / "REPORT.md"
    report.write_text(render_report(results, experiments), encoding="utf-8")
    return f"wrote {report.name} of {len(results)} benchmarks, and {drawn} plots"


def render_report(results: list[Result], experiments: str = "") -> str:
    """The whole of it in Markdown."""
    lines = [_HEAD, "## Numbers to hold", "", _BARS, ""]
    lines += [*render.bars(results), ""]
    if missing := [name for name in ORDER if name not in {result.name for result in results}]:
        lines += [f"Not measured, and so neither here nor below: {', '.join(missing)}.", ""]
    if any(result.quick for result in results):
        quick = ", ".join(result.name for result in results if result.quick)
        lines += [f"Measured in a hurry (`--quick`), so only roughly: {quick}.", ""]
    minutes = sum(result.took_s for result in results) / 60
    lines += ["## Where it was measured", "", *_machines(results), "", f"All of it took {minutes:.0f} minutes.", ""]
    for result in results:
        lines += _benchmark(result)
    if experiments:
        lines += [experiments.rstrip(), ""]
    return "\n".join(lines)


def _machines(results: list[Result]) -> list[str]:
    """Each machine, and what was measured there, and when."""
    lines: dict[str, list[str]] = {}
    for result in results:
        if result.machine:
            lines.setdefault(_said(result.machine), []).append(f"  - `{result.name}`: {_when(result.machine)}")
    return [line for machine, of_machine in lines.items() for line in (f"- {machine}:", *of_machine)]


def _said(machine: Machine) -> str:
    return (
        f"Linux {machine.kernel} ({machine.machine}), {machine.processor}, {machine.cpus} CPUs, "
        f"{machine.memory_mb:,} MB, Python {machine.python}"
    )


def _when(machine: Machine) -> str:
    return f"{machine.date}, commit {machine.commit or '?'}, load {machine.load} before it began"


def _benchmark(result: Result) -> list[str]:
    lines = [f"## {result.title}", "", f"`{result.name}`, {result.took_s:.0f} s. {result.method}", ""]
    for plot in result.plots:
        lines += [f"![{plot.title}](plots/{plot.name}.svg)", ""]
    for table in result.tables:
        lines += [f"**{table.title}**", "", *render.markdown(table), ""]
        lines += [table.note, ""] if table.note else []
    for note in result.notes:
        lines += [note, ""]
    if result.skipped:
        lines += ["Not measured:", "", *(f"- {what}: {why}" for what, why in result.skipped.items()), ""]
    return lines
