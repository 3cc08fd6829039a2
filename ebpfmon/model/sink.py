"""Describe sinks: where snapshots go."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Annotated, ClassVar, Protocol

import msgspec

from ebpfmon.model.snapshot import Snapshot


class Sink(Protocol):
    """Where snapshots go.

    The core calls `send` for one snapshot after the other, never for two at once. Whatever it raises is counted and
    logged, and the sink is closed and opened again after a while; the queue, the retries and the time limits are the
    core's.
    """

    async def send(self, snapshot: Snapshot) -> None:
        """Deliver one snapshot."""


class SinkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """One `[[sinks]]`: the settings of every sink. A sink type derives from it with `tag="its type"`."""

    name: str = ""
    """How logs and self-metrics call it; by default its type."""
    charts: tuple[str, ...] = ()
    """Which charts it gets: ids, `*` in them, `!` to exclude; an exclusion always wins. By default all."""
    interval: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 0
    """Seconds between its snapshots, a multiple of the harvest's, whose intervals are summed; 0: the harvest's."""
    send_timeout_s: ClassVar[float | None] = 10.0
    """How long one `send` may take before the sink counts as failed. None: without limit."""

    @property
    def capabilities(self) -> frozenset[str]:
        """The capabilities(7) that opening the sink again needs, long after the start, such as `net_bind_service`: the
        daemon gives up all others. By default none; root needs none for files of its own."""
        return frozenset()

    def open(self) -> AbstractAsyncContextManager[Sink]:
        """Return an async context manager that opens a sink with these settings, and closes it. Whatever waits belongs
        to the context manager. Raise SettingsError if the settings cannot work."""
        raise NotImplementedError


def tag_of(settings: SinkSettings | type[SinkSettings]) -> str:
    """Return the `type = "..."` that selects these settings."""
    return str(settings.__struct_config__.tag)
