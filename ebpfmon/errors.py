"""The errors that callers can act on.

EbpfmonError            base class of all errors that ebpfmon raises on purpose
├── SettingsError       a settings file or an option is wrong; nothing was loaded (exit status 2)
├── PluginError         a plugin cannot be used; the others still can
├── SinkError           a sink cannot deliver for now; ebpfmon tries again
│   └── SinkGoneError   a sink's reader has gone for good; the sink ends
└── KernelError         the kernel, or a library needed to talk to it, refuses
    ├── ObjectError     a compiled object is missing, or was not built with the BPF headers
    ├── LoadError       the kernel rejected a program or a map
    └── AttachError     an event cannot be attached

A message says what failed, on which object (in quotes), why, and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebpfmon import shortage
from ebpfmon.text import escaped

if TYPE_CHECKING:
    from ebpfmon.model import Snapshot


class EbpfmonError(Exception):
    """Base class of all errors. Its text is always one printable line, even if it contains names from outside."""

    def __init__(self, message: str) -> None:
        super().__init__(escaped(message))


class SettingsError(EbpfmonError):
    """A setting is wrong. The message names the file or option, the key, and the expected value."""


class PluginError(EbpfmonError):
    """A plugin is broken, or was written for another API version."""


class SinkError(EbpfmonError):
    """A sink cannot deliver for now.

    `undelivered` is the part of the snapshot that has not arrived, and ebpfmon sends only this again. If it is None,
    nothing has arrived, and ebpfmon sends the whole snapshot again. `dropped` is the number of earlier snapshots that
    the sink had taken but could not deliver. They are lost, and ebpfmon counts them as dropped.
    """

    def __init__(self, message: str, *, undelivered: Snapshot | None = None, dropped: int = 0) -> None:
        super().__init__(message)
        self.undelivered = undelivered
        self.dropped = dropped


class SinkGoneError(SinkError):
    """A sink's reader has gone for good. This is not a failure: it is how `| head` ends."""


class KernelError(EbpfmonError):
    """The kernel refuses, or a library needed to talk to it is missing."""


class ObjectError(KernelError):
    """A compiled BPF object is missing, cannot be read, or was not built with the BPF headers."""


class LoadError(KernelError):
    """The kernel refused to load an object.

    `program` is the rejected program, if known. `errno` is the kernel's error number (positive), or 0 if unknown.
    `reason` is the part of the message that says why.
    """

    def __init__(self, message: str, *, program: str | None = None, errno: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.program = program
        self.errno = errno
        self.reason = escaped(reason) or str(self).rpartition(": ")[2]


class AttachError(KernelError):
    """An event cannot be attached. `errno` is the kernel's error number (positive), or 0 if unknown."""

    def __init__(self, message: str, *, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


def describe(error: BaseException) -> str:
    """Return an error of any kind as one printable line: the text of ebpfmon's own errors, `TypeError: text` of others.

    If a limit of the system was reached, the line says which one and how to raise it. Third-party code may raise
    anything, even an error whose str() fails.
    """
    try:
        if short := shortage.reason(error):
            return escaped(short)
        text = " ".join(str(error).split())
    except BaseException:
        text = ""
    if isinstance(error, EbpfmonError) and text:
        return escaped(text)
    name = type(error).__name__
    return escaped(f"{name}: {text}") if text else name
