"""`make bench-report`: REPORT.md and its plots, out of the JSON that the pieces wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks import render
from benchmarks.result import OUT, Machine, Plot, Result, load

HERE = Path(__file__).parent
ORDER = ("ladder", "instructions", "start", "seen", "baseline", "peers", "workloads", "scale")
EXPERIMENTS = HERE / "experiments.md"
"""What was tried to make it cheaper, by hand: what a measurement alone does not tell."""
_HEAD = """# What ebpfmon costs

Written by `make bench-report` from what `make bench` (and `make bench-instructions`) measured; what was bad is here
too. Every figure can be measured again with these two commands, and each piece alone with
`python -m benchmarks NAME`.
"""


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
    return f"wrote {report.name} of {len(results)} pieces, and {drawn} plots"


def render_report(results: list[Result], experiments: str = "") -> str:
    """The whole of it in Markdown."""
    lines = [_HEAD, "## Numbers to hold", ""]
    lines += [*render.bars([bar for result in results for bar in result.bars]), ""]
    if any(result.quick for result in results):
        quick = ", ".join(result.name for result in results if result.quick)
        lines += [f"Measured in a hurry (`--quick`), so only roughly: {quick}.", ""]
    lines += ["## Where it was measured", "", *_machines(results), ""]
    for result in results:
        lines += _piece(result)
    if experiments:
        lines += [experiments.rstrip(), ""]
    return "\n".join(lines)


def _machines(results: list[Result]) -> list[str]:
    by_machine: dict[Machine, list[str]] = {}
    for result in results:
        if result.machine:
            by_machine.setdefault(result.machine, []).append(result.name)
    return [f"- {', '.join(names)}: {_said(machine)}" for machine, names in by_machine.items()]


def _said(machine: Machine) -> str:
    return (
        f"{machine.date}, commit {machine.commit or '?'}, Linux {machine.kernel} ({machine.machine}), "
        f"{machine.processor}, {machine.cpus} CPUs, {machine.memory_mb:,} MB, Python {machine.python}, "
        f"load {machine.load} before it began"
    )


def _piece(result: Result) -> list[str]:
    lines = [f"## {result.title}", "", result.method, ""]
    for plot in result.plots:
        lines += [f"![{plot.title}](plots/{plot.name}.svg)", ""]
    for table in result.tables:
        lines += [f"**{table.title}**", "", *render.markdown(table), ""]
        lines += [table.note, ""] if table.note else []
    for note in result.notes:
        lines += [note, ""]
    if result.skipped:
        lines += ["Not measured:", "", *(f"- {what}: {why}" for what, why in result.skipped.items()), ""]
    return [*lines, f"It took {result.took_s:.0f} s.", ""]
