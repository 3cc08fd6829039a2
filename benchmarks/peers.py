"""Compare ebpfmon with other monitors, over idle processes."""

from __future__ import annotations

from benchmarks import programs
from benchmarks.compare import Costs, measure_in_turn, ratio, ratios
from benchmarks.measure import load
from benchmarks.monitors import APPS_PLUGIN, Peer, all_peers
from benchmarks.result import Cell, Plot, Result, Table, Target
from benchmarks.statistics import significant

METHOD = (
    "The monitors run in turn over idle processes, once a second, each with its default settings. The output of a "
    "monitor is read at once; one that only answers requests gets one every second. CPU time is that of its "
    "process and of the children that it has waited for, without its start, scaled to 30 s (one core has 30 s), "
    'in the median round. What the BPF programs of the monitors that use eBPF cost other programs is in "Slowdown '
    'of other programs".'
)
_OURS = "ebpfmon"
_LIMITS = {1_000: 1 / 10, 5_000: 1 / 40}


def run(quick: bool) -> Result:
    """Measure every monitor with every number of processes. Those with a target are measured in several rounds."""
    result = Result(name="peers", title="Comparison with other monitors", method=METHOD)
    counts = (100,) if quick else tuple(_LIMITS)
    costs: dict[int, dict[str, Costs]] = {}
    peers = all_peers()
    result.skipped |= {peer.name: peer.skip_reason for peer in peers if peer.skip_reason}
    with_targets = [peer for peer in peers if peer.name in (_OURS, APPS_PLUGIN)]
    for count in counts:
        skipped = dict(result.skipped)
        with load(programs.build("processes"), "idle", str(count)):
            by_monitor = measure_in_turn(with_targets, *((1, 3.0) if quick else (3, 5.0)), skipped)
            by_monitor |= measure_in_turn(
                [peer for peer in peers if peer not in with_targets], 1, 3.0 if quick else 4.0, skipped
            )
        costs[count] = by_monitor
        result.skipped |= {
            f"{name}, {count:,} processes": reason for name, reason in skipped.items() - result.skipped.items()
        }
    result.tables.append(_table(peers, costs))
    series: dict[str, list[tuple[float | str, float]]] = {
        f"{count:,} idle processes": [(peer.name, by_monitor[peer.name].typical.per_30_s) for peer in peers
                                      if peer.name in by_monitor]
        for count, by_monitor in costs.items()
    }  # fmt: skip
    result.plots.append(
        Plot("peers", "CPU time of each monitor (less is better)", "", "CPU s per 30 s", series, "bars", "y")
    )
    result.targets += [_target(costs.get(count, {}), count, limit) for count, limit in _LIMITS.items()]
    return result


def _table(peers: list[Peer], costs: dict[int, dict[str, Costs]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for peer in peers:
        for count, by_monitor in costs.items():
            if peer.name in by_monitor:
                peer_costs = by_monitor[peer.name]
                rows.append((
                    peer.name, count, significant(peer_costs.typical.per_30_s), peer_costs.range,
                    round(peer_costs.typical.rss_mb, 1), round(peer_costs.typical.pss_mb, 1), peer.reports,
                ))  # fmt: skip
    columns = ("monitor", "idle processes", "CPU s per 30 s", "over the rounds", "RSS, MB", "PSS, MB", "reports")
    return Table("CPU time and memory", columns, rows)


def _target(costs: dict[str, Costs], count: int, limit: float) -> Target:
    name = f"CPU time with {count:,} idle processes, relative to apps.plugin"
    if not {_OURS, APPS_PLUGIN} <= costs.keys():
        return Target(name, None, limit)
    ours, theirs = costs[_OURS], costs[APPS_PLUGIN]
    return Target(name, round(ratio(ours, theirs), 4), limit, rounds=ratios(ours, theirs))
