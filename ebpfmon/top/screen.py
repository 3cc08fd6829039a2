"""The terminal: keys in, frames out, and its modes as they were before.

As plain escape sequences and not by curses: any descriptor can be drawn on, no terminfo entry need exist, nothing is
module state, a write need not wait, and the memory and the C library of curses stay out of the daemon.
"""

from __future__ import annotations

import asyncio
import os
import signal
import termios
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import ClassVar, Self

from ebpfmon.config.settings import By
from ebpfmon.errors import SettingsError, SinkGoneError
from ebpfmon.model.everything import SinkSettings, Snapshot
from ebpfmon.top.keys import Keys
from ebpfmon.top.state import State, press
from ebpfmon.top.text import columns, cut, pad
from ebpfmon.top.view import NO_USERS, Frame, frame

SIZE = os.terminal_size((80, 24))
"""Of a terminal that does not say."""
WAITING = "ebpfmon top: waiting for the first interval (q quits)"
_PLAIN = {"", "dumb", "unknown"}  # these may know no escape sequence
# the alternate screen, no cursor, and no automatic wrap: some terminals draw a character wider than Unicode says
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_LOCAL_MODES, _CONTROLS = 3, 6  # of what tcgetattr returns


class Screen:
    """Shows the newest snapshot on a terminal, as the keys say; a sink, which can be opened again after it was closed.

    A terminal that takes no more (Ctrl-S, a connection that hangs) misses frames, and holds up nobody.
    """

    def __init__(
        self,
        on_quit: Callable[[], object],
        on_by: Callable[[By], object],
        *,
        term: str,
        input_fd: int = 0,
        output_fd: int = 1,
        state: State | None = None,
        errors: bool = True,
        users: Mapping[int, str] = NO_USERS,
        encoding: str = "utf-8",
        escape_s: float = 0.1,
    ) -> None:
        """`on_quit` is called when the user wants to end or has gone, `on_by` when snapshots should be grouped by
        something else from now on. `term` is $TERM: if it says nothing, or dumb, frames follow each other as plain
        lines. `errors` and `users`: see `view.frame`. `escape_s`: when nothing comes for that long, what may be the
        beginning of a key was the Escape key. Raises SettingsError if the output is no terminal; if the input is none,
        there are no keys."""
        if not os.isatty(output_fd):
            raise SettingsError("top: the output is no terminal: use --once, with --json for programs")
        self.state = state or State()
        self._on_quit, self._on_by = on_quit, on_by
        self._plain, self._encoding, self._escape_s = term in _PLAIN, encoding, escape_s
        self._input, self._output = input_fd, output_fd
        self._errors, self._users = errors, users
        self._newest: Snapshot | None = None
        self._shown: Snapshot | None = None
        self._stack = ExitStack()
        self._out = -1
        self._unsent, self._stale, self._gone = b"", False, False
        self._keys = Keys()
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.state = replace(self.state, quit=False)
        self._unsent, self._stale, self._gone, self._keys = b"", False, False, Keys()
        with ExitStack() as stack:
            self._out = _open(self._output)
            stack.callback(self._close)
            if os.isatty(self._input):
                stack.callback(_set_modes, self._input, termios.tcgetattr(self._input))
            stack.callback(self._leave)
            self._enter()
            if os.isatty(self._input):
                loop.add_reader(self._input, self._read)
                stack.callback(loop.remove_reader, self._input)
            for number, handler in ((signal.SIGWINCH, self._draw), (signal.SIGCONT, self._enter)):
                loop.add_signal_handler(number, handler)
                stack.callback(loop.remove_signal_handler, number)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stack.close()

    async def send(self, snapshot: Snapshot) -> None:
        """Show a snapshot, or keep it for when the user goes on. Raises SinkGoneError if the terminal has gone."""
        self._newest = snapshot
        if not self.state.paused:
            self._shown = snapshot
            self._draw()
        if self._gone:
            raise SinkGoneError("the terminal has gone")

    def _enter(self) -> None:
        """Take the terminal over, also from a shell that had it while this process was stopped."""
        with suppress(termios.error):  # no terminal
            modes = termios.tcgetattr(self._input)
            # no signals, as Ctrl-Z or Ctrl-\ would leave the terminal as it is
            modes[_LOCAL_MODES] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
            modes[_CONTROLS][termios.VMIN], modes[_CONTROLS][termios.VTIME] = 1, 0
            _set_modes(self._input, modes)
        if not self._plain:
            self._write(_ENTER.encode())
        self._draw()

    def _leave(self) -> None:
        if self._timer:
            self._timer.cancel()
        asyncio.get_running_loop().remove_writer(self._out)
        with suppress(OSError, termios.error):
            if self._unsent:  # makes room for what restores the terminal; what is cut off ends at its Escape
                termios.tcflush(self._out, termios.TCOFLUSH)
            if not self._plain:
                _put(self._out, _LEAVE.encode())

    def _close(self) -> None:
        os.close(self._out)
        self._out = -1

    def _read(self) -> None:
        try:
            data = os.read(self._input, 1024)
        except OSError:
            data = b""
        if not data:
            self._lose()
            return
        if self._timer:
            self._timer.cancel()
        self._press(self._keys.feed(data))
        if self._keys.waiting:
            later = asyncio.get_running_loop().call_later
            self._timer = later(self._escape_s, lambda: self._press(self._keys.flush()))

    def _press(self, keys: list[str]) -> None:
        before = self.state
        for key in keys:
            self.state = press(self.state, key)
        if self.state.by != before.by:
            self._on_by(self.state.by)
        if self.state.quit and not before.quit:
            self._on_quit()
        if not self.state.paused:
            self._shown = self._newest
        if self.state != before:
            self._draw()

    def _draw(self) -> None:
        if self._unsent or self._gone:
            self._stale = True
            return
        size = _size(self._out)
        if self._shown is None:
            made = Frame([cut(WAITING, size.columns)], -1, self.state)
        else:
            height = size.lines - self._plain  # which the cursor is on after the last line
            made = frame(self._shown, self.state, size.columns, height, errors=self._errors, users=self._users)
        self.state = made.state
        text = "".join(f"{line}\n" for line in made.lines) if self._plain else _drawn(made, size)
        self._write(text.encode(self._encoding, "replace"))

    def _write(self, data: bytes) -> None:
        self._unsent += data
        self._go_on()

    def _go_on(self) -> None:
        """Write what the terminal takes; where it takes no more, go on when it does."""
        loop = asyncio.get_running_loop()
        try:
            self._unsent = self._unsent[_put(self._out, self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._lose()
            return
        if self._unsent:
            loop.add_writer(self._out, self._go_on)
            return
        loop.remove_writer(self._out)
        if self._stale:
            self._stale = False
            self._draw()

    def _lose(self) -> None:
        """The terminal was closed."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._input)
        loop.remove_writer(self._out)
        self._unsent, self._gone = b"", True
        self._on_quit()


class TopSettings(SinkSettings, tag="top", frozen=True, kw_only=True):
    """Feeds a screen like any other sink. No plugin registers it: the command line makes it, and no settings file."""

    screen: Screen
    send_timeout_s: ClassVar[float | None] = None

    def open(self) -> Screen:
        """The screen."""
        return self.screen


def _drawn(made: Frame, size: os.terminal_size) -> str:
    """A frame over the one before it: each line is written over, then the rest of it cleared, so that nothing flickers.

    A line as wide as the terminal has no rest: there the cursor is still on its last character, which would go."""
    text = ""
    for number, line in enumerate(made.lines, 1):
        rest = "\x1b[K" if columns(line) < size.columns else ""
        if number - 1 == made.heading:
            line, rest = f"\x1b[7m{pad(line, size.columns)}\x1b[0m", ""
        elif number == 1:
            line = f"\x1b[1m{line}\x1b[0m"
        text += f"\x1b[{number};1H{line}{rest}"
    if len(made.lines) < size.lines:
        text += f"\x1b[{len(made.lines) + 1};1H\x1b[J"
    return text


def _open(fd: int) -> int:
    """The same terminal by a descriptor of its own: O_NONBLOCK on the given one would be the shell's as well."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # another user's terminal, after su
        return os.dup(fd)


def _put(fd: int, data: bytes) -> int:
    """Write without waiting; how much was written. Where the descriptor is shared, it blocks again afterwards."""
    blocking = os.get_blocking(fd)
    os.set_blocking(fd, False)
    try:
        return os.write(fd, data)
    finally:
        os.set_blocking(fd, blocking)


def _set_modes(fd: int, modes: list[object]) -> None:
    with suppress(termios.error):  # it has gone
        # at once: a terminal that takes no more never has written what it has
        termios.tcsetattr(fd, termios.TCSANOW, modes)  # type: ignore[arg-type]


def _size(fd: int) -> os.terminal_size:
    try:
        size = os.get_terminal_size(fd)
    except OSError:
        return SIZE
    return os.terminal_size((size.columns or SIZE.columns, size.lines or SIZE.lines))
