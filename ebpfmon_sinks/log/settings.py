"""The settings of the log sink: `[[sinks]] type = "log"`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import msgspec

from ebpfmon import (
    Sink,
    SinkSettings,
    Snapshot,
    encode_json,
    file_resources,
    printable,
    standard_stream,
    stream_resources,
    submit_once,
    to_json,
)
from ebpfmon_sinks.directories import require_directory
from ebpfmon_sinks.log import journal, stream
from ebpfmon_sinks.log.text import Limits, render

_STREAMS = {"stdout": 1, "stderr": 2}
_JOURNAL = "journal"
_ANSWER_S = 1.0
"""How long looking up a file may take."""


class LogSettings(SinkSettings, tag="log", frozen=True):
    """`[[sinks]] type = "log"`."""

    format: Literal["text", "json"] = "text"
    path: Annotated[str, msgspec.Meta(min_length=1)] = "stdout"
    """A file, `stdout`, `stderr` or `journal`. A stream that systemd connected to the journal counts as `journal`."""
    applications: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 5
    """How many of the busiest groups the text and the journal show."""
    processes: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 5
    """How many of the busiest processes the text shows."""
    destinations: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 5
    """How many of the busiest series of each other table the text and the journal show."""
    # No limit, because a reader may stop for long (a terminal after Ctrl-S). Meanwhile the mailbox drops old snapshots.
    send_timeout_s: ClassVar[float | None] = None

    @property
    def capabilities(self) -> frozenset[str]:
        # needed as long as the sink runs, because a file is opened again for each snapshot
        if self.path == _JOURNAL or self.path in _STREAMS:
            return frozenset()
        try:
            # A file server that is down must not hold up the start.
            is_needed = submit_once("look up files", _needs_dac_override, self.path).result(_ANSWER_S)
        except (OSError, RuntimeError):
            is_needed = True  # could not tell
        return frozenset({"dac_override"} if is_needed else ())

    @property
    def resources(self) -> frozenset[str]:
        if self.path == _JOURNAL:  # which any number of sinks may write to
            return frozenset()
        number = _STREAMS.get(self.path)
        resources = file_resources(self.path) if number is None else stream_resources(number)
        streams = resources & {*_STREAMS}
        return streams if any(journal.is_journal(_STREAMS[name]) for name in streams) else resources

    @property
    def _stream(self) -> int | None:
        """The number of the standard stream, or None if the path is a file."""
        return _STREAMS[self.path] if self.path in _STREAMS else standard_stream(self.path)

    def check_machine(self) -> Iterator[str]:
        if self.path == _JOURNAL or self._stream is not None:
            return
        require_directory(self.path, f"cannot write to '{self.path}'")
        if not os.path.isabs(self.path):
            import difflib  # only a mistake needs it

            close = difflib.get_close_matches(self.path, (*_STREAMS, _JOURNAL), 1)
            hint = f"did you mean '{close[0]}'?" if close else "write an absolute path"
            yield f"path: '{self.path}' is relative to the current directory, which is / in a systemd unit; {hint}"

    def open(self) -> AbstractAsyncContextManager[Sink]:
        fd = self._stream
        if self.path == _JOURNAL or (fd is not None and journal.is_journal(fd)):
            return journal.open_journal(partial(message, settings=self), self.applications, self.destinations)
        return stream.open_stream(self.path, fd, partial(message, settings=self))


def message(snapshot: Snapshot, settings: LogSettings) -> str:
    """Return a snapshot in the format of the settings, without the last newline."""
    if settings.format == "json":
        return encode_json(to_json(snapshot)).decode()
    limits = Limits(groups=settings.applications, processes=settings.processes, series=settings.destinations)
    lines = render(snapshot, limits, has_chart_filter=bool(settings.charts))
    return "\n".join(printable(line) for line in lines)  # the host and texts of probes are not cleaned yet


def _needs_dac_override(path: str) -> bool:
    """Return whether root needs CAP_DAC_OVERRIDE to write to a path, unless that is a standard stream."""
    if standard_stream(path) is not None:
        return False
    if not os.path.exists(path):
        path = os.path.dirname(os.path.abspath(path))
    try:
        directories = [os.stat(directory) for directory in Path(os.path.realpath(path)).parents]
        target = os.stat(path)
    except OSError:
        return False
    uid = os.geteuid()
    writable = target.st_uid == uid or target.st_mode & stat.S_IWOTH
    return not writable or any(d.st_uid != uid and not d.st_mode & stat.S_IXOTH for d in directories)
