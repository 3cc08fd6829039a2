"""Write REPORT.md and its plots from the stored results: `make bench-report`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks import render
from benchmarks.result import OUT, Machine, Plot, Result, load

HERE = Path(__file__).parent
ORDER = ("ladder", "transfers", "instructions", "start", "short_lived", "baseline", "peers", "workloads", "scale")
EXPERIMENTS = HERE / "experiments.md"
"""The handwritten end of the report, about changes that were tried to make ebpfmon cheaper."""
_HEAD = """# What ebpfmon costs

`make bench-report` wrote this page from the results of `make bench` and `make bench-instructions`. To run one
benchmark again, use `make bench ARGS=NAME`.

- Everything that is compared was measured on the same machine in the same run. Look at the ratios, because the absolute
  figures differ from machine to machine.
- What is compared runs in turn, round after round, so that a disturbance affects all of it equally. Unless a benchmark
  says otherwise, a figure is the median of the rounds. The variation between the rounds is given as "lowest to
  highest" or as "median ± half the interquartile range". If it is missing, there was only one round.
- RSS is resident memory. PSS divides the pages that several processes share among them. 1 MB is 10^6 bytes.
- An empty cell means that there is no such number, or that it was not measured. The reason is given below the table.
"""

_TARGETS = (
    "A target is met if the measured value is not above it. A ratio is ebpfmon's cost divided by the other's: 1/30 "
    "means that ebpfmon costs a thirtieth of the other."
)


def write(results_folder: Path = OUT, into: Path = HERE, draw: Callable[[Plot], bytes] | None = None) -> str:
    """Write the report of all stored results, and return a message that says what was written."""
    if draw is None:
        from benchmarks import plots  # Imported here because it needs matplotlib.

        draw = plots.svg
    results = []
    for path in (results_folder / f"{name}.json" for name in ORDER):
        try:
            results.append(load(path))
        except FileNotFoundError:
            continue
        except msgspec.DecodeError as error:
            return f"cannot write the report: cannot read {path}: {error}; run this benchmark again"
    if not results:
        return f"cannot write the report: no results in {results_folder}; run make bench first"
    plots_folder = into / "plots"
    plots_folder.mkdir(exist_ok=True)
    plot_count = 0
    for plot in (plot for result in results for plot in result.plots):
        (plots_folder / f"{plot.name}.svg").write_bytes(draw(plot))
        plot_count += 1
    experiments = EXPERIMENTS.read_text(encoding="utf-8") if EXPERIMENTS.exists() else ""
    report = into / "REPORT.md"
    report.write_text(render_report(results, experiments), encoding="utf-8")
    return f"wrote {report.name} of {len(results)} benchmarks, and {plot_count} plots"


def render_report(results: list[Result], experiments: str = "") -> str:
    """Return the report in Markdown."""
    lines = [_HEAD, "## Performance targets", "", _TARGETS, ""]
    lines += [*render.targets(results), ""]
    if missing := [name for name in ORDER if name not in {result.name for result in results}]:
        lines += [f"Not measured, and therefore missing from this page: {', '.join(missing)}.", ""]
    if any(result.quick for result in results):
        quick = ", ".join(result.name for result in results if result.quick)
        lines += [f"Measured with `--quick`, and therefore imprecise: {quick}.", ""]
    lines += ["## Where it was measured", "", *_machines(results), "", _durations(results), ""]
    for result in results:
        lines += _benchmark(result)
    if experiments:
        lines += [experiments.rstrip(), ""]
    return "\n".join(lines)


def _durations(results: list[Result]) -> str:
    """Return a sentence that says how long each make target took."""
    minutes = {"make bench": 0.0, "make bench-instructions": 0.0}
    for result in results:
        minutes["make bench-instructions" if result.name == "instructions" else "make bench"] += result.duration_s / 60
    return f"{', '.join(f'`{target}` took {m:.0f} minutes' for target, m in minutes.items() if m)}."


def _machines(results: list[Result]) -> list[str]:
    """List each machine with the benchmarks that ran on it, and when."""
    lines: dict[str, list[str]] = {}
    for result in results:
        if result.machine:
            lines.setdefault(_describe(result.machine), []).append(f"  - `{result.name}`: {_date(result.machine)}")
    return [line for machine, benchmarks in lines.items() for line in (f"- {machine}:", *benchmarks)]


def _describe(machine: Machine) -> str:
    return (
        f"Linux {machine.kernel} ({machine.machine}), {machine.processor}, {machine.cpus} CPUs, "
        f"{machine.memory_mb:,} MB, Python {machine.python}"
    )


def _date(machine: Machine) -> str:
    return f"{machine.date}, commit {machine.commit or '?'}, load average {machine.load_average} before it began"


def _benchmark(result: Result) -> list[str]:
    lines = [f"## {result.title}", "", f"`{result.name}`, {result.duration_s:.0f} s. {result.method}", ""]
    for plot in result.plots:
        lines += [f"![{plot.title}](plots/{plot.name}.svg)", ""]
    for table in result.tables:
        lines += [f"**{table.title}**", "", *render.markdown(table), ""]
        lines += [table.note, ""] if table.note else []
    for note in result.notes:
        lines += [note, ""]
    if result.skipped:
        lines += ["Not measured:", "", *(f"- {name}: {reason}" for name, reason in result.skipped.items()), ""]
    return lines
