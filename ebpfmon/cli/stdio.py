"""Prepare stdin, stdout and stderr, which the caller may have closed or connected to anything."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

from ebpfmon.errors import EbpfmonError

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


class StdoutError(EbpfmonError):
    """Stdout cannot be written."""


class ReaderGoneError(StdoutError):
    """The reader of stdout has ended. This is not a failure: it is how `ebpfmon check | head -1` ends."""


class _Stdout(io.FileIO):
    """Stdout, whose errors are told apart from those of other files."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]  # the type of buffers has no name in Python 3.11
        except BrokenPipeError:
            raise ReaderGoneError("the reader of stdout has ended") from None
        except OSError as error:
            raise StdoutError(f"cannot write to stdout: {error.strerror}") from None


def prepare() -> None:
    """Open the streams that are closed, so that no other file takes their place, and let stdout raise StdoutError."""
    for number, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  # open as long as the process
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and out is sys.__stdout__:
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Stdout(out.fileno(), "wb", closefd=False)),
            encoding=out.encoding,
            errors="backslashreplace",  # names may have characters that the encoding of the terminal lacks
            line_buffering=out.line_buffering,
            write_through=out.write_through,
        )


def drain() -> None:
    """Write what is buffered, or drop it if that is not possible, so that Python does not report it when it exits."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, StdoutError):
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
