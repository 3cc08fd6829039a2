"""`ebpfmon top --once`: which second it is that is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ebpfmon import Snapshot
from ebpfmon.config import settings as config
from ebpfmon.config.settings import Settings
from ebpfmon.errors import KernelError
from ebpfmon.pipeline.pipeline import Grouping
from ebpfmon.plugins import registry
from ebpfmon.top.session import one_second
from tests.unit.top_support import second

SHORT, WHOLE, LAST = second(elapsed_s=0.2), second(elapsed_s=1.0), second(elapsed_s=0.4)


def kept(monkeypatch: pytest.MonkeyPatch, sent: Sequence[Snapshot], last: Snapshot) -> Snapshot:
    """What is kept of a daemon's snapshots, the last of which it sends when it is stopped."""

    async def fake(settings: Settings, found: registry.Registry, stop: asyncio.Event, grouping: Grouping) -> None:
        assert grouping.by == "user"
        async with settings.sinks[0].open() as sink:
            for snapshot in sent:
                await sink.send(snapshot)
            stop.set()
            await sink.send(last)

    monkeypatch.setattr("ebpfmon.daemon.run.run", fake)
    found = registry.discover([])
    return asyncio.run(one_second(config.check({"sinks": []}, "the test", found), found, "user", asyncio.Event()))


def test_the_first_whole_interval_is_kept_which_is_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept(monkeypatch, [SHORT, WHOLE], LAST) is WHOLE


@pytest.mark.parametrize("sent", [[], [SHORT]])
def test_an_interval_that_was_cut_short_is_none(monkeypatch: pytest.MonkeyPatch, sent: list[Snapshot]) -> None:
    with pytest.raises(KernelError, match=r"^top: stopped before the first interval was over$"):
        kept(monkeypatch, sent, LAST)
