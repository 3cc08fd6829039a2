"""`ebpfmon top --once`: which interval is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import replace

import pytest

from ebpfmon import Column, Dimension, Probe, Snapshot, config
from ebpfmon.config import Settings
from ebpfmon.errors import SettingsError
from ebpfmon.grouping.registry import groupings
from ebpfmon.plugins import registry
from ebpfmon.testing import chart
from ebpfmon.top.session import check_sort, one_interval
from tests.unit.top_support import snapshot_of

SHORT, WHOLE, LAST = snapshot_of(elapsed_s=0.2), snapshot_of(elapsed_s=1.0), snapshot_of(elapsed_s=0.4)


def shown_once(monkeypatch: pytest.MonkeyPatch, sent: Sequence[Snapshot], last: Snapshot) -> Snapshot | None:
    """Return which of these snapshots `--once` shows. The daemon sends `last` when it is stopped."""

    async def fake(
        settings: Settings, found: registry.Registry, stop: asyncio.Event, others: Iterable[Executor]
    ) -> None:
        assert settings.groups.by == tuple(groupings()), "the key b needs all groupings"
        async with settings.sinks[0].open() as sink:
            for snapshot in sent:
                await sink.send(snapshot)
            stop.set()
            await sink.send(last)

    monkeypatch.setattr("ebpfmon.daemon.run.run", fake)
    found = registry.discover([])
    return asyncio.run(one_interval(config.validate({"sinks": []}, "the test", found), found, asyncio.Event()))


def test_the_first_whole_interval_is_shown_which_is_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown_once(monkeypatch, [SHORT, WHOLE], LAST) is WHOLE


@pytest.mark.parametrize("sent", [[], [SHORT]])
def test_stopping_before_a_whole_interval_leaves_nothing_to_show(
    monkeypatch: pytest.MonkeyPatch, sent: list[Snapshot]
) -> None:
    assert shown_once(monkeypatch, sent, LAST) is None


def test_the_sort_column_must_be_one_of_top_or_of_a_probe() -> None:
    columns = (
        Column(id="faults", header="FAULTS", fields=("faults",)),
        Column(id="seeks", header="SEEKS", fields=("seeks",), table="disks"),
    )
    of_disks = replace(chart(Dimension.value("seeks"), labels=("disk",)), table="disks")
    probe = Probe(name="x", package="x", object="x", charts=(of_disks,), columns=columns)
    found = registry.Registry(probes={"x": probe})
    on = config.validate({"plugins": {"x": {"enabled": True}}, "sinks": []}, "e.toml", found)
    for key in ("", "pid", "group", "count", "faults"):
        assert check_sort(key, on, found) == key
    for header, key in (("FAULTS", "faults"), ("Pid", "pid"), ("PROCS", "count"), ("procs", "count")):
        assert check_sort(header, on, found) == key
    off = config.validate({"plugins": {"x": {"enabled": False}}, "sinks": []}, "e.toml", found)
    with pytest.raises(SettingsError, match=r"^top: --sort: 'faults': expected one of pid, .*, count$"):
        check_sort("faults", off, found)
    with pytest.raises(SettingsError, match=r"^top: --sort: 'fault': expected one of pid, user, .*, faults$"):
        check_sort("fault", on, found)
