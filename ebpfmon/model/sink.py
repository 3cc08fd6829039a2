"""The interface and the settings that every sink has."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, ClassVar, Protocol

import msgspec

from ebpfmon.model.snapshot import Snapshot


class Sink(Protocol):
    """A destination of snapshots.

    ebpfmon calls `send` for one snapshot at a time. If `send` raises an exception, ebpfmon counts and logs it, closes
    the sink, and opens it again after a delay. ebpfmon also takes care of the queue, the retries and the time limits.
    """

    async def send(self, snapshot: Snapshot) -> None:
        """Deliver one snapshot."""


class SinkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """The settings that every `[[sinks]]` section has.

    Each sink type has a subclass, whose `tag` is the value of `type` in the section:
    `class LogSettings(SinkSettings, tag="log")`.
    """

    name: str = ""
    """The sink's name in logs and self-metrics; by default its type."""
    charts: tuple[str, ...] = ()
    """The charts that the sink gets, as patterns of ids: `*` matches any text, and a leading `!` excludes.

    An exclusion always wins. By default the sink gets all charts.
    """
    interval: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 0
    """Seconds between the sink's snapshots; 0 means the harvest interval.

    It must be a multiple of the harvest interval. Harvests in between are summed.
    """
    send_timeout_s: ClassVar[float | None] = 10.0
    """The time limit of opening, of one `send` and of closing. None means no limit."""

    requires: ClassVar[tuple[str, ...]] = ()
    """The names of modules that `open` needs. They are imported when settings with such a sink are read.

    Modules that take much memory belong here, and not at the top of the module with the settings, which is always
    imported. A sink must not import anything later, because the daemon may have become a user who cannot read Python's
    files.
    """
    files: ClassVar[tuple[str, ...]] = ()
    """The names of settings that are paths of files to read. `ebpfmon config check` looks whether the files exist."""

    @property
    def capabilities(self) -> frozenset[str]:
        """The capabilities(7) that the sink needs to open again after the start, such as `net_bind_service`.

        The daemon drops all others. The default is none, which is enough for root to open its own files.
        """
        return frozenset()

    @property
    def resources(self) -> frozenset[str]:
        """What only one sink may use at a time, such as a file that it writes or a port that it listens on.

        `file_resources`, `stream_resources` and `port_resources` return the texts for files, standard streams and
        ports. For anything else, choose a text. Settings with two sinks that need the same resource are refused. If a
        reload ends a sink, a new sink that needs the same resource starts after that end. This may read the file
        system: ebpfmon does not call it in the event loop. By default there are none.
        """
        return frozenset()

    def check_machine(self) -> Iterable[str]:
        """Check what the sink needs on this machine, such as a group or the contents of a file, and return warnings.

        Raise SinkError or ValueError for what can never work. Only `ebpfmon config check` calls this, after it has
        found all `files`, so it may block. By default nothing is checked.
        """
        return ()

    def open(self) -> AbstractAsyncContextManager[Sink]:
        """Return an async context manager that opens the sink on entry and closes it on exit.

        This method itself must not block; connecting belongs in the context manager. Do not check settings here, but in
        `__post_init__`, which may raise ValueError, so that `ebpfmon config check` reports mistakes too.
        """
        raise NotImplementedError


def tag_of(settings: SinkSettings | type[SinkSettings]) -> str:
    """Return the value of `type` in a `[[sinks]]` section that selects these settings."""
    return str(settings.__struct_config__.tag)
