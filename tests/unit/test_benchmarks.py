"""What the benchmarks make of their samples, and how the report shows it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks import compare, loads, netdata, render, report, result, statistics, watch
from benchmarks.guest import Counted, Found
from benchmarks.instructions import SERIES, _tables
from benchmarks.monitors import Peer, all_of_them
from benchmarks.result import Bar, Machine, Plot, Result, Table
from ebpfmon.kernel.libbpf import Libbpf

MACHINE = Machine("a processor", 2, 8000, "6.1.0", "x86_64", "3.11.2", 0.5, "2026-01-01 00:00 UTC", "abc")


def a_result(name: str = "ladder", **more: object) -> Result:
    return Result(name=name, title="A title", method="How.", machine=MACHINE, **more)  # type: ignore[arg-type]


def test_a_median_stands_with_half_the_distance_of_the_quartiles() -> None:
    assert statistics.spread([5, 1, 3, 2, 4]) == (3, 1)
    assert statistics.spread([7.0]) == (7.0, 0.0)


def test_one_sample_that_is_too_short_is_no_figure() -> None:
    assert statistics.quick([1.0, 100.0, 101.0, 102.0, 150.0]) == 100
    assert statistics.quick([7.0]) == 7


def test_what_drifts_in_both_cancels() -> None:
    drifting = [100.0, 200.0, 300.0, 400.0]
    assert statistics.above([x + 40 for x in drifting], drifting) == (40, 0)
    assert statistics.lost([x * 0.9 for x in drifting], drifting).median == pytest.approx(10)


def test_rounds_of_another_number_are_no_comparison() -> None:
    with pytest.raises(ValueError, match="zip"):
        statistics.above([1.0], [1.0, 2.0])


def test_no_thing_is_always_the_first_of_a_round() -> None:
    assert list(statistics.interleaved("abc", 2)) == [(0, "a"), (0, "b"), (0, "c"), (1, "c"), (1, "b"), (1, "a")]


@pytest.mark.parametrize(("value", "shown"), [(123456.0, 123000), (0.012345, 0.0123), (99.96, 100), (5.0, 5.0)])
def test_a_figure_has_as_many_digits_as_there_is_something_behind(value: float, shown: float) -> None:
    assert statistics.significant(value) == shown


def test_ticks_that_come_on_time_have_no_jitter() -> None:
    assert watch.jitter_ms([1.0, 2.0, 3.0, 4.0]) == 0
    assert watch.jitter_ms([1.0, 2.0]) is None


@pytest.mark.parametrize(
    ("cell", "text"), [(None, ""), (12345, "12,345"), (12345.6, "12,346"), (0.12345, "0.1235"), ("x", "x")]
)
def test_table_cells_are_shown_as_people_read_them(cell: result.Cell, text: str) -> None:
    assert render.shown(cell) == text


@pytest.mark.parametrize(
    ("value", "verdict"), [(1.0, "held"), (1.1, "MISSED"), (None, "not measured"), (-0.1, "too noisy")]
)
def test_a_bar_is_held_missed_or_nobody_can_tell(value: float | None, verdict: str) -> None:
    bar = Bar("a thing", value, 1.0, "ms")
    assert bar.verdict == verdict
    assert verdict in render.bars([a_result(bars=[bar])])[-1]


@pytest.mark.parametrize(
    ("value", "shown"), [(1 / 30, "1/30"), (0.0459, "1/21.8"), (0.5, "1/2"), (0.99, "0.99 x"), (1.3, "1.3 x")]
)
def test_a_ratio_is_shown_as_people_say_it(value: float, shown: str) -> None:
    assert render.ratio(value) == shown


def test_how_far_rounds_went_is_shown_beside_a_figure() -> None:
    assert render.between([0.3, 0.1, 0.2]) == "0.1 to 0.3"
    assert render.between([1 / 30, 1 / 20], render.ratio) == "1/30 to 1/20"
    assert render.between([0.1]) == ""
    assert render.middle([5, 1, 3, 2, 4]) == "3 ± 1"


def a_cost(cpu_s: float, seconds: float = 3.0, jitter_ms: float | None = None) -> watch.Cost:
    return watch.Cost(seconds, cpu_s / 4, cpu_s * 3 / 4, cpu_s, 40.0, 30.0, jitter_ms)


def test_the_figure_of_a_monitor_is_that_of_its_median_round_and_of_two_the_cheaper() -> None:
    three = compare.Costs([a_cost(0.5, jitter_ms=9.0), a_cost(0.1, jitter_ms=1.0), a_cost(0.2, jitter_ms=2.0)])
    assert three.typical.per_30_s == 2
    assert three.between == "1 to 5"
    assert three.user_part == pytest.approx(0.25)
    assert three.jitter_ms == 2
    assert compare.Costs([a_cost(0.5), a_cost(0.1)]).typical.per_30_s == 1


def test_monitors_are_compared_by_their_typical_rounds_and_round_by_round() -> None:
    ours, theirs = (compare.Costs([a_cost(cpu_s) for cpu_s in each]) for each in ((0.1, 0.2, 0.3), (1.0, 4.0, 9.0)))
    assert compare.ratio(ours, theirs) == pytest.approx(0.05)
    assert compare.ratios(ours, theirs) == "1/30 to 1/10"


def test_a_monitor_that_cannot_run_is_left_out_with_its_reason() -> None:
    skipped: dict[str, str] = {}
    monitor = watch.Monitor("a monitor", [sys.executable, "-c", "import sys; sys.exit('no such kernel')"])
    nowhere = Peer(watch.Monitor("another", ["/nowhere"]), "", "not installed: a package")
    assert compare.in_turn([Peer(monitor, ""), nowhere], 2, 0.1, skipped) == {}
    assert skipped == {"a monitor": "it says nothing: no such kernel", "another": "not installed: a package"}


def test_a_pipe_in_a_table_cell_does_not_end_it_in_markdown() -> None:
    assert render.markdown(Table("t", ("a", "b"), [("x|y", 1)]))[-1] == "| x\\|y | 1 |"


def test_the_terminal_gets_columns_that_are_aligned() -> None:
    text = render.text(a_result(tables=[Table("t", ("step", "ns"), [("nothing", 5), ("a", 1234)])]))
    assert "step        ns\nnothing      5\na        1,234" in text


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = a_result(
        tables=[Table("t", ("a", "b"), [("x", 1.5), ("y", None)], "a note")],
        plots=[Plot("p", "title", "x", "y", {"s": [(1.0, 2.0), ("z", 3.0)]})],
        bars=[Bar("w", None, 3.0)],
        skipped={"this": "why"},
    )
    assert result.load(result.save(found, tmp_path)) == found


def test_the_report_has_all_benchmarks_with_what_is_bad_and_what_is_missing(tmp_path: Path) -> None:
    result.save(
        a_result(
            bars=[Bar("something dear", 50, 40, "ns", "50 to 60")],
            plots=[Plot("p", "A plot", "", "ns", {"s": [("a", 1.0)]}, kind="bars")],
            skipped={"kprobes": "this kernel has none"},
            quick=True,
        ),
        tmp_path,
    )
    result.save(a_result("scale", tables=[Table("A table", ("a",), [("b",)])]), tmp_path)
    said = report.write(tmp_path, tmp_path, lambda plot: plot.title.encode())
    written = (tmp_path / "REPORT.md").read_text()
    assert said == "wrote REPORT.md of 2 benchmarks, and 1 plots"
    assert (tmp_path / "plots/p.svg").read_bytes() == b"A plot"
    assert "| something dear | 50 ns | 50 to 60 | 40 ns | MISSED | `ladder` |" in written
    assert "- kprobes: this kernel has none" in written
    assert "only roughly: ladder." in written
    assert "- Linux 6.1.0 (x86_64), a processor, 2 CPUs" in written
    assert "  - `scale`: 2026-01-01 00:00 UTC, commit abc, load 0.5 before it began" in written
    assert "neither here nor below: transfers, instructions, start, seen, baseline, peers, workloads." in written
    assert "![A plot](plots/p.svg)" in written
    assert "**A table**" in written


def test_a_report_of_nothing_says_what_to_do(tmp_path: Path) -> None:
    assert "run make bench" in report.write(tmp_path, tmp_path, lambda plot: b"")
    assert not (tmp_path / "REPORT.md").exists()


def test_every_benchmark_is_in_the_report() -> None:
    from benchmarks.__main__ import BENCHMARKS, SLOW

    assert sorted(report.ORDER) == sorted((*BENCHMARKS, *SLOW))


def test_instructions_are_shown_above_nothing_and_above_an_empty_program() -> None:
    steps = [
        Counted("", "nothing", 668.0, 340.0),
        Counted("fexit", "an empty program", 852.0, 340.0),
        Counted("fexit", "totals", 892.0, 341.0),
    ]
    (table,) = _tables(SERIES[0], Found(steps, {}))
    assert table.rows == [
        ("nothing", 668, None, None, None),
        ("an empty program", 852, 184, 0, 0),
        ("totals", 892, 224, 40, 1),
    ]


def test_the_cpu_time_of_a_process_is_seen_from_outside() -> None:
    before = watch.usage(os.getpid())
    wanted = time.process_time() + 0.05
    while time.process_time() < wanted:
        pass
    assert watch.usage(os.getpid()).cpu_s - before.cpu_s >= 0.05


def test_resident_memory_is_not_below_its_proportional_part() -> None:
    rss, pss = watch.memory_mb(os.getpid())
    assert rss >= pss > 1


def test_a_peer_gets_its_port_and_configuration() -> None:
    (exporter,) = (peer for peer in all_of_them() if peer.is_asked)
    assert exporter.at(1234, Path("/x.yml")).monitor.command[-4:] == [
        "-web.listen-address", "127.0.0.1:1234", "-config.path", "/x.yml",
    ]  # fmt: skip


def test_a_number_that_a_tool_did_not_print_is_an_error() -> None:
    assert loads.number(r"reads/s:\s+([\d.]+)", "  reads/s:    12.5") == 12.5
    with pytest.raises(RuntimeError, match="reads/s"):
        loads.number(r"reads/s:\s+([\d.]+)", "usage: sysbench")


def test_where_netdatas_source_cannot_be_had_it_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setattr(netdata, "_CHECKOUT", tmp_path / "checkout")
    monkeypatch.setattr(netdata, "_OBJECT", tmp_path / "bpf" / "vfs.bpf.o")
    monkeypatch.setattr(netdata, "REPOSITORY", str(tmp_path / "nowhere"))
    assert netdata.build().startswith(f"git: fatal: repository '{tmp_path}/nowhere' does not exist")
    assert list(netdata.steps(Libbpf())) == []
    monkeypatch.setenv("PATH", str(tmp_path))
    assert netdata.build() == "git is not installed"
