"""Harvester: swap the buffers of every probe, wait once, drain every table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from ebpfmon import TableHarvest
from ebpfmon.errors import KernelError
from ebpfmon.pipeline.harvest import Harvester
from tests.unit.support import FakeClock, table

Steps = list[tuple[str, str, int]]


@dataclass
class FakeTable:
    name: str
    steps: Steps
    broken: bool = False

    def wait_for_programs(self, buffer: int) -> None:
        self.steps.append(("wait", self.name, buffer))

    def drain(self, buffer: int) -> TableHarvest:
        self.steps.append(("drain", self.name, buffer))
        if self.broken:
            raise KernelError("drain: no")
        return table([(1, b"a", 2, 3)])


@dataclass
class FakeActiveBuffer:
    name: str
    steps: Steps
    clock: FakeClock
    index: int = 0

    def swap(self) -> int:
        left, self.index = self.index, 1 - self.index
        self.steps.append(("swap", self.name, left))
        self.clock.advance(0.001)
        return left


@dataclass
class FakeSource:
    active_buffer: FakeActiveBuffer
    tables: Sequence[FakeTable]
    missed: list[int] = field(default_factory=lambda: [0])

    def missed_runs(self) -> int:
        return self.missed[0]


def build(*stems: str) -> tuple[Harvester, list[FakeSource], FakeClock, Steps]:
    clock, steps = FakeClock(), Steps()
    sources = [FakeSource(FakeActiveBuffer(s, steps, clock), [FakeTable(s, steps)]) for s in stems]
    return Harvester(sources, clock), sources, clock, steps


def test_all_probes_are_swapped_then_one_grace_period_passes_then_all_are_drained() -> None:
    harvester, _, _, steps = build("a", "b", "c")
    harvester.harvest()
    assert [what for what, _, _ in steps] == ["swap"] * 3 + ["wait"] + ["drain"] * 3
    waited = next(name for what, name, _ in steps if what == "wait")
    assert waited == "c", "only a grace period after the last swap covers all swaps"


@pytest.mark.parametrize("stems", [("a",), ("a", "b")])
def test_the_drained_buffer_is_the_one_that_programs_have_left(stems: tuple[str, ...]) -> None:
    harvester, _, _, steps = build(*stems)
    for buffer in (0, 1, 0):
        steps.clear()
        harvester.harvest()
        assert {s for _, _, s in steps} == {buffer}


def test_an_interval_lasts_from_swap_to_swap_by_the_monotonic_clock() -> None:
    harvester, _, clock, _ = build("a", "b")
    clock.advance(0.25)
    assert harvester.harvest().elapsed_s == pytest.approx(0.252)
    clock.advance(0.7)
    clock.now_s -= 500  # The clock is set back.
    second = harvester.harvest()
    assert second.elapsed_s == pytest.approx(0.702)
    assert second.time_s == pytest.approx(clock.now_s - 0.002)


def test_the_length_of_an_interval_is_never_0() -> None:
    clock = FakeClock()
    assert Harvester([], clock).harvest().elapsed_s > 0


def test_only_a_table_that_cannot_be_read_is_left_out() -> None:
    harvester, sources, _, _ = build("a", "b", "c")
    sources[1].tables[0].broken = True
    harvest = harvester.harvest()
    assert set(harvest.tables) == {"a", "c"}
    assert not harvest.complete
    sources[1].tables[0].broken = False
    assert harvester.harvest().complete


def test_missed_runs_of_all_probes_are_summed_and_make_the_interval_incomplete(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harvester, sources, _, _ = build("a", "b")
    assert harvester.harvest().complete
    sources[0].missed[0], sources[1].missed[0] = 5, 2
    first = harvester.harvest()
    assert (first.missed_runs, first.complete) == (7, False)
    sources[0].missed[0] = 8
    assert harvester.harvest().missed_runs == 3
    last = harvester.harvest()
    assert (last.missed_runs, last.complete) == (0, True)
    assert len(caplog.records) == 2, "expected one line at the beginning and one at the end"


def test_swap_time_and_drain_time_are_measured_separately(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter((100, 130, 137))
    monkeypatch.setattr("ebpfmon.pipeline.harvest.time.perf_counter_ns", lambda: next(moments))
    harvester, _, _, _ = build("a")
    harvest = harvester.harvest()
    assert (harvest.swap_ns, harvest.drain_ns) == (30, 7)


def test_new_sources_begin_where_the_former_ones_end() -> None:
    harvester, (one,), clock, steps = build("one")
    beside = FakeSource(one.active_buffer, [FakeTable("new", steps)], [7])
    own = FakeSource(FakeActiveBuffer("own", steps, clock), [FakeTable("own", steps), FakeTable("own too", steps)])
    last = harvester.switch_sources([beside, own])
    assert set(last.tables) == {"one"}
    # Swapping the former source swaps the one that shares its interval, too. Earlier counts are for gauges only.
    assert [name for name, _ in last.overlap] == ["new", "own", "own too"] * 2
    assert steps == [
        ("drain", "new", 1), ("drain", "own", 1), ("drain", "own too", 1),
        ("swap", "one", 0), ("wait", "one", 0), ("drain", "one", 0),
        ("wait", "new", 0), ("drain", "new", 0),
        ("swap", "own", 0), ("wait", "own", 0), ("drain", "own", 0), ("drain", "own too", 0),
    ]  # fmt: skip
    steps.clear()
    following = harvester.harvest()
    assert set(following.tables) == {"new", "own", "own too"}
    assert ("swap", "one", 1) in steps
    assert following.missed_runs == 0  # Runs missed before the switch do not count.


def test_a_dry_run_reads_only_the_buffers_that_no_program_writes_to() -> None:
    harvester, sources, _, steps = build("a", "b")
    harvester.dry_run()
    assert {(what, buffer) for what, _, buffer in steps} == {("wait", 1), ("drain", 1)}
    assert {name for what, name, _ in steps if what == "drain"} == {"a", "b"}
    assert [source.active_buffer.index for source in sources] == [0, 0]
    sources[1].tables[0].broken = True
    with pytest.raises(KernelError):
        harvester.dry_run()
