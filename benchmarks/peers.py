"""What else one could take: side by side, over idle processes."""

from __future__ import annotations

from benchmarks import programs
from benchmarks.compare import Costs, in_turn, ratio, ratios
from benchmarks.monitors import APPS_PLUGIN, Peer, all_of_them
from benchmarks.result import Bar, Cell, Plot, Result, Table
from benchmarks.statistics import significant
from benchmarks.watch import load

METHOD = (
    "They run in turn over so many idle processes, once a second, each as its own defaults have it; what it writes is "
    "read at once, and who must be asked is asked once a second. CPU time is that of its process and of the "
    "children that it has waited for, its start left out, scaled to 30 s (a core has 30 s), of the median round. "
    'What the programs of those that use eBPF cost the others is in "What it costs the others".'
)
_OURS = "ebpfmon"
_BARS = {1_000: 1 / 10, 5_000: 1 / 40}


def run(quick: bool) -> Result:
    """Every peer over every number of processes; those that there is a bar for round after round."""
    found = Result(name="peers", title="Side by side", method=METHOD)
    counts = (100,) if quick else tuple(_BARS)
    costs: dict[int, dict[str, Costs]] = {}
    peers = all_of_them()
    found.skipped |= {peer.name: peer.skip_reason for peer in peers if peer.skip_reason}
    held = [peer for peer in peers if peer.name in (_OURS, APPS_PLUGIN)]
    for count in counts:
        skipped = dict(found.skipped)
        with load(programs.build("processes"), "idle", str(count)):
            of_count = in_turn(held, *((1, 3.0) if quick else (3, 5.0)), skipped)
            of_count |= in_turn([peer for peer in peers if peer not in held], 1, 3.0 if quick else 4.0, skipped)
        costs[count] = of_count
        found.skipped |= {f"{name}, {count:,} processes": why for name, why in skipped.items() - found.skipped.items()}
    found.tables.append(_table(peers, costs))
    series: dict[str, list[tuple[float | str, float]]] = {
        f"{count:,} idle processes": [(peer.name, of_count[peer.name].typical.per_30_s) for peer in peers
                                      if peer.name in of_count]
        for count, of_count in costs.items()
    }  # fmt: skip
    found.plots.append(
        Plot("peers", "CPU time of each monitor (less is better)", "", "CPU s per 30 s", series, "bars", "y")
    )
    found.bars += [_bar(costs.get(count, {}), count, bar) for count, bar in _BARS.items()]
    return found


def _table(peers: list[Peer], costs: dict[int, dict[str, Costs]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for peer in peers:
        for count, of_count in costs.items():
            if peer.name in of_count:
                of_peer = of_count[peer.name]
                rows.append((
                    peer.name, count, significant(of_peer.typical.per_30_s), of_peer.between,
                    round(of_peer.typical.rss_mb, 1), round(of_peer.typical.pss_mb, 1), peer.sees,
                ))  # fmt: skip
    columns = ("monitor", "idle processes", "CPU s per 30 s", "in rounds", "RSS, MB", "PSS, MB", "sees")
    return Table("CPU time and memory", columns, rows)


def _bar(costs: dict[str, Costs], count: int, bar: float) -> Bar:
    what = f"CPU with {count:,} idle processes, against apps.plugin"
    if not {_OURS, APPS_PLUGIN} <= costs.keys():
        return Bar(what, None, bar)
    ours, theirs = costs[_OURS], costs[APPS_PLUGIN]
    return Bar(what, round(ratio(ours, theirs), 4), bar, in_rounds=ratios(ours, theirs))
