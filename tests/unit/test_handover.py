"""A resource is handed over from sink to sink at reloads, and every snapshot is delivered, in order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from ebpfmon import Dimension, Sink, SinkSettings, Snapshot
from ebpfmon.daemon.sinks import Sinks, prepare
from ebpfmon.pipeline.publish import Publisher
from tests.unit.support import chart, data, snapshot

READ = data(chart(Dimension.value("read_calls")), 1)


class OneSettings(SinkSettings, tag="one", frozen=True):
    """A sink on a resource. It records what it does, and delivers nothing before it may."""

    into: list[Any]
    may_send: Any
    resource: str = "TCP port 1 (IPv4) of 127.0.0.1"

    @property
    def resources(self) -> frozenset[str]:
        return frozenset({self.resource})

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Sink]:
        self.into.append(f"{self.name} opened")
        yield _One(self)
        self.into.append(f"{self.name} closed")


class _One:
    def __init__(self, settings: OneSettings) -> None:
        self._settings = settings

    async def send(self, snapshot: Snapshot) -> None:
        await asyncio.to_thread(self._settings.may_send.wait)
        self._settings.into.append((self._settings.name, snapshot.time_s))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("last", ["TCP port 1 (IPv4) of 127.0.0.1", "TCP port 1 (IPv4) of *"])
def test_sinks_that_two_reloads_replaced_deliver_all_they_have_one_after_the_other(last: str) -> None:
    into: list[Any] = []
    may_send = threading.Event()

    async def run() -> None:
        publisher = Publisher([])
        sinks = Sinks(publisher, lambda: None)
        for n, name in enumerate("abc"):
            resource = last if name == "c" else "TCP port 1 (IPv4) of 127.0.0.1"
            settings = OneSettings(name=name, into=into, may_send=may_send, resource=resource)
            sinks.update(prepare([settings]))
            for step in range(2):
                publisher.publish(replace(snapshot(charts=[READ]), time_s=10.0 * n + step))
            while not into:  # noqa: ASYNC110  # another thread opens the sink
                await asyncio.sleep(0.01)
        assert into == ["a opened"]
        may_send.set()
        await sinks.close(10)

    asyncio.run(run())
    assert into == [
        "a opened", ("a", 0.0), ("a", 1.0), "a closed",
        "b opened", ("b", 10.0), ("b", 11.0), "b closed",
        "c opened", ("c", 20.0), ("c", 21.0), "c closed",
    ]  # fmt: skip
