"""The benchmarks' statistics and report. No benchmark runs here."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks import compare, load_generators, measure, netdata, render, report, result, statistics
from benchmarks.guest import GuestResult, StepCount
from benchmarks.instructions import SERIES, _tables
from benchmarks.monitors import Peer, all_peers
from benchmarks.result import Machine, Plot, Result, Table, Target
from ebpfmon.kernel.libbpf import Libbpf

MACHINE = Machine("a processor", 2, 8000, "6.1.0", "x86_64", "3.11.2", 0.5, "2026-01-01 00:00 UTC", "abc")


def a_result(name: str = "ladder", **more: object) -> Result:
    return Result(name=name, title="A title", method="How.", machine=MACHINE, **more)  # type: ignore[arg-type]


def test_spread_is_the_median_and_half_the_interquartile_range() -> None:
    assert statistics.spread([5, 1, 3, 2, 4]) == (3, 1)
    assert statistics.spread([7.0]) == (7.0, 0.0)


def test_the_first_quartile_ignores_a_single_short_sample() -> None:
    assert statistics.first_quartile([1.0, 100.0, 101.0, 102.0, 150.0]) == 100
    assert statistics.first_quartile([7.0]) == 7


def test_drift_of_samples_and_base_cancels() -> None:
    drifting = [100.0, 200.0, 300.0, 400.0]
    assert statistics.difference([x + 40 for x in drifting], drifting) == (40, 0)
    assert statistics.loss_percent([x * 0.9 for x in drifting], drifting).median == pytest.approx(10)


def test_different_numbers_of_rounds_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="zip"):
        statistics.difference([1.0], [1.0, 2.0])


def test_every_other_round_is_in_reverse_order() -> None:
    assert list(statistics.interleaved("abc", 2)) == [(0, "a"), (0, "b"), (0, "c"), (1, "c"), (1, "b"), (1, "a")]


@pytest.mark.parametrize(("value", "shown"), [(123456.0, 123000), (0.012345, 0.0123), (99.96, 100), (5.0, 5.0)])
def test_a_figure_is_rounded_to_its_significant_digits(value: float, shown: float) -> None:
    assert statistics.significant(value) == shown


def test_regular_ticks_have_no_jitter() -> None:
    assert measure.jitter_ms([1.0, 2.0, 3.0, 4.0]) == 0
    assert measure.jitter_ms([1.0, 2.0]) is None


@pytest.mark.parametrize(
    ("cell", "text"), [(None, ""), (12345, "12,345"), (12345.6, "12,346"), (0.12345, "0.1235"), ("x", "x")]
)
def test_numbers_in_table_cells_are_rounded_and_have_separators(cell: result.Cell, text: str) -> None:
    assert render.format_cell(cell) == text


@pytest.mark.parametrize(
    ("value", "verdict"), [(1.0, "met"), (1.1, "MISSED"), (None, "not measured"), (-0.1, "too noisy")]
)
def test_a_target_is_met_missed_noisy_or_not_measured(value: float | None, verdict: str) -> None:
    bar = Target("a thing", value, 1.0, "ms")
    assert bar.verdict == verdict
    assert verdict in render.targets([a_result(targets=[bar])])[-1]


@pytest.mark.parametrize(
    ("value", "shown"), [(1 / 30, "1/30"), (0.0459, "1/21.8"), (0.5, "1/2"), (0.99, "0.99 x"), (1.3, "1.3 x")]
)
def test_a_small_ratio_is_shown_as_a_fraction(value: float, shown: str) -> None:
    assert render.format_ratio(value) == shown


def test_the_variation_between_rounds_is_shown() -> None:
    assert render.format_range([0.3, 0.1, 0.2]) == "0.1 to 0.3"
    assert render.format_range([1 / 30, 1 / 20], render.format_ratio) == "1/30 to 1/20"
    assert render.format_range([0.1]) == ""
    assert render.format_median([5, 1, 3, 2, 4]) == "3 ± 1"


def a_cost(cpu_s: float, seconds: float = 3.0, jitter_ms: float | None = None) -> measure.Cost:
    return measure.Cost(seconds, cpu_s / 4, cpu_s * 3 / 4, cpu_s, 40.0, 30.0, jitter_ms)


def test_the_typical_cost_is_the_median_round_and_of_two_the_cheaper() -> None:
    three = compare.Costs([a_cost(0.5, jitter_ms=9.0), a_cost(0.1, jitter_ms=1.0), a_cost(0.2, jitter_ms=2.0)])
    assert three.typical.per_30_s == 2
    assert three.range == "1 to 5"
    assert three.user_share == pytest.approx(0.25)
    assert three.jitter_ms == 2
    assert compare.Costs([a_cost(0.5), a_cost(0.1)]).typical.per_30_s == 1


def test_monitors_are_compared_by_typical_rounds_and_round_by_round() -> None:
    ours, theirs = (compare.Costs([a_cost(cpu_s) for cpu_s in each]) for each in ((0.1, 0.2, 0.3), (1.0, 4.0, 9.0)))
    assert compare.ratio(ours, theirs) == pytest.approx(0.05)
    assert compare.ratios(ours, theirs) == "1/30 to 1/10"


def test_a_monitor_that_cannot_run_is_left_out_with_its_reason() -> None:
    skipped: dict[str, str] = {}
    monitor = measure.Monitor("a monitor", [sys.executable, "-c", "import sys; sys.exit('no such kernel')"])
    uninstalled = Peer(measure.Monitor("another", ["/nowhere"]), "", "not installed: a package")
    assert compare.measure_in_turn([Peer(monitor, ""), uninstalled], 2, 0.1, skipped) == {}
    assert skipped == {"a monitor": "it printed too few lines: no such kernel", "another": "not installed: a package"}


def test_a_pipe_in_a_table_cell_does_not_end_it_in_markdown() -> None:
    assert render.markdown(Table("t", ("a", "b"), [("x|y", 1)]))[-1] == "| x\\|y | 1 |"


def test_the_terminal_gets_columns_that_are_aligned() -> None:
    text = render.text(a_result(tables=[Table("t", ("step", "ns"), [("no program", 5), ("a", 1234)])]))
    assert "step           ns\nno program      5\na           1,234" in text


def test_a_result_survives_saving_and_loading(tmp_path: Path) -> None:
    found = a_result(
        tables=[Table("t", ("a", "b"), [("x", 1.5), ("y", None)], "a note")],
        plots=[Plot("p", "title", "x", "y", {"s": [(1.0, 2.0), ("z", 3.0)]})],
        targets=[Target("w", None, 3.0)],
        skipped={"this": "why"},
    )
    assert result.load(result.save(found, tmp_path)) == found


def test_the_report_shows_results_missed_targets_and_missing_benchmarks(tmp_path: Path) -> None:
    result.save(
        a_result(
            targets=[Target("something dear", 50, 40, "ns", "50 to 60")],
            plots=[Plot("p", "A plot", "", "ns", {"s": [("a", 1.0)]}, kind="bars")],
            skipped={"kprobes": "this kernel has none"},
            quick=True,
        ),
        tmp_path,
    )
    result.save(a_result("scale", tables=[Table("A table", ("a",), [("b",)])]), tmp_path)
    summary = report.write(tmp_path, tmp_path, lambda plot: plot.title.encode())
    written = (tmp_path / "REPORT.md").read_text()
    assert summary == "wrote REPORT.md of 2 benchmarks, and 1 plots"
    assert (tmp_path / "plots/p.svg").read_bytes() == b"A plot"
    assert "| something dear | 50 ns | 50 to 60 | 40 ns | MISSED | `ladder` |" in written
    assert "- kprobes: this kernel has none" in written
    assert "therefore imprecise: ladder." in written
    assert "- Linux 6.1.0 (x86_64), a processor, 2 CPUs" in written
    assert "  - `scale`: 2026-01-01 00:00 UTC, commit abc, load average 0.5 before it began" in written
    assert (
        "therefore missing from this page: transfers, instructions, start, short_lived, baseline, peers, workloads."
        in written
    )
    assert "![A plot](plots/p.svg)" in written
    assert "**A table**" in written


def test_without_results_the_message_says_what_to_run(tmp_path: Path) -> None:
    assert "run make bench" in report.write(tmp_path, tmp_path, lambda plot: b"")
    assert not (tmp_path / "REPORT.md").exists()


def test_a_stored_result_of_an_older_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "scale.json").write_text('{"name": "scale"}')
    assert f"cannot read {tmp_path / 'scale.json'}" in report.write(tmp_path, tmp_path, lambda plot: b"")
    assert not (tmp_path / "REPORT.md").exists()


def test_every_benchmark_is_in_the_report() -> None:
    from benchmarks.__main__ import BENCHMARKS, ON_REQUEST

    assert sorted(report.ORDER) == sorted((*BENCHMARKS, *ON_REQUEST))


def test_instructions_are_shown_above_no_program_and_above_an_empty_program() -> None:
    steps = [
        StepCount("", "no program", 668.0, 340.0),
        StepCount("fexit", "an empty program", 852.0, 340.0),
        StepCount("fexit", "totals", 892.0, 341.0),
    ]
    (table,) = _tables(SERIES[0], GuestResult(steps, {}))
    assert table.rows == [
        ("no program", 668, None, None, None),
        ("an empty program", 852, 184, 0, 0),
        ("totals", 892, 224, 40, 1),
    ]


def test_usage_includes_the_cpu_time_just_spent() -> None:
    before = measure.usage(os.getpid())
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert measure.usage(os.getpid()).cpu_s - before.cpu_s >= 0.05


def test_resident_memory_is_at_least_the_proportional_set_size() -> None:
    rss, pss = measure.memory_mb(os.getpid())
    assert rss >= pss > 1


def test_a_scraped_monitor_gets_its_port_and_configuration() -> None:
    (exporter,) = (peer for peer in all_peers() if peer.is_scraped)
    assert exporter.with_endpoint(1234, Path("/x.yml")).monitor.command[-4:] == [
        "-web.listen-address", "127.0.0.1:1234", "-config.path", "/x.yml",
    ]  # fmt: skip


def test_a_number_missing_from_the_output_is_an_error() -> None:
    assert load_generators.number(r"reads/s:\s+([\d.]+)", "  reads/s:    12.5") == 12.5
    with pytest.raises(RuntimeError, match="reads/s"):
        load_generators.number(r"reads/s:\s+([\d.]+)", "usage: sysbench")


def test_build_returns_the_reason_if_netdatas_source_cannot_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setattr(netdata, "_CHECKOUT", tmp_path / "checkout")
    monkeypatch.setattr(netdata, "_OBJECT", tmp_path / "bpf" / "vfs.bpf.o")
    monkeypatch.setattr(netdata, "REPOSITORY", str(tmp_path / "nowhere"))
    assert netdata.build().startswith(f"git: fatal: repository '{tmp_path}/nowhere' does not exist")
    assert list(netdata.steps(Libbpf())) == []
    monkeypatch.setenv("PATH", str(tmp_path))
    assert netdata.build() == "git is not installed"
