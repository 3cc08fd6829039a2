"""Draw snapshots on a terminal and act on keys. The terminal is left as it was found.

blessed knows the terminals: how to move and clear on this one, and which key sends what. Its own input and output
are not used, because they wait: for the terminal to take the output, for the rest of a key, and, when it restores the
modes of the terminal, for everything to be written.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import termios
import tty
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import ClassVar, Self

from blessed import Terminal

from ebpfmon.errors import SettingsError, SinkGoneError
from ebpfmon.model import SinkSettings, Snapshot
from ebpfmon.top.keyboard import Keyboard
from ebpfmon.top.output import Output
from ebpfmon.top.state import State, press
from ebpfmon.top.text import columns, cut, pad
from ebpfmon.top.view import NO_USERS, Frame, frame

WAITING = "ebpfmon top: waiting for the first interval (q quits)"
_PLAIN = {"", "dumb", "unknown"}
"""Values of $TERM for terminals that may know no escape sequence. blessed would take them for an xterm."""


class Screen:
    """Show the newest snapshot on a terminal and do what the keys say: a sink, which can be opened again.

    A terminal that takes no more output misses frames, and delays nobody.
    """

    def __init__(
        self,
        on_quit: Callable[[], object],
        *,
        term: str,
        input_fd: int = 0,
        output_fd: int = 1,
        state: State | None = None,
        users: Mapping[int, str] = NO_USERS,
        encoding: str = "utf-8",
        escape_s: float = 0.1,
    ) -> None:
        """Check that the output is a terminal; it is only taken over when the screen is opened.

        `on_quit` is called when the user wants to end or the terminal was closed. `term` is $TERM: if it is empty or
        dumb, frames follow each other as plain lines. `users`: see `view.frame`. `escape_s` is how long the rest of a
        key may take to arrive: after that time an Escape is the Escape key.

        Raises SettingsError if the output is no terminal. If the input is none, there are no keys.
        """
        if not os.isatty(output_fd):
            raise SettingsError("top: the output is no terminal: use --once, with --json for programs")
        self.state = state or State()
        self._on_quit = on_quit
        self._terminal = None if term in _PLAIN else terminal_of(term)
        self._keyboard = Keyboard(self._terminal or terminal_of("vt100"))
        self._encoding, self._escape_s = encoding, escape_s
        self._input_fd, self._output_fd = input_fd, output_fd
        self._users = users
        self._newest: Snapshot | None = None
        self._shown: Snapshot | None = None
        self._stack = ExitStack()
        self._output: Output | None = None
        self._is_stale = self._is_gone = False
        self._escape: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.state = replace(self.state, quit=False)
        self._is_stale = self._is_gone = False
        self._keyboard.flush()
        has_keys = os.isatty(self._input_fd)
        with ExitStack() as stack:
            self._output = Output(self._output_fd, on_drained=self._catch_up, on_gone=self._lose)
            if has_keys:
                stack.callback(_set_modes, self._input_fd, termios.tcgetattr(self._input_fd))
            stack.callback(self._leave)
            self._enter()
            if has_keys:
                loop.add_reader(self._input_fd, self._read)
                stack.callback(loop.remove_reader, self._input_fd)
            for number, handler in ((signal.SIGWINCH, self._draw), (signal.SIGCONT, self._enter)):
                loop.add_signal_handler(number, handler)
                stack.callback(loop.remove_signal_handler, number)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stack.close()

    async def send(self, snapshot: Snapshot) -> None:
        """Show a snapshot, or keep it until a pause ends. Raises SinkGoneError if the terminal was closed."""
        self._newest = snapshot
        if not self.state.paused:
            self._shown = snapshot
            self._draw()
        if self._is_gone:
            raise SinkGoneError("the terminal has gone")

    def _enter(self) -> None:
        """Take the terminal over; again when this process goes on after a shell had stopped it."""
        with suppress(termios.error):  # the input is no terminal
            modes = termios.tcgetattr(self._input_fd)
            # without ISIG, because Ctrl-Z and Ctrl-\ would leave the terminal as it is now
            modes[tty.LFLAG] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
            modes[tty.CC][termios.VMIN], modes[tty.CC][termios.VTIME] = 1, 0
            _set_modes(self._input_fd, modes)
        if self._output and (t := self._terminal):
            # no automatic wrap, because some terminals draw characters wider than Unicode says
            enter = t.enter_fullscreen + t.hide_cursor + t.disable_line_wrap + t.clear
            self._output.write(enter.encode())
        self._draw()

    def _leave(self) -> None:
        if self._escape:
            self._escape.cancel()
        leave = ""
        if t := self._terminal:
            leave = t.normal + t.enable_line_wrap + t.normal_cursor + t.exit_fullscreen
        if self._output:
            self._output.close(leave.encode())
        self._output = None

    def _read(self) -> None:
        try:
            data = os.read(self._input_fd, 1024)
        except OSError:
            data = b""
        if not data:
            self._lose()
            return
        if self._escape:
            self._escape.cancel()
        self._press(self._keyboard.feed(data))
        if self._keyboard.is_waiting:
            later = asyncio.get_running_loop().call_later
            self._escape = later(self._escape_s, lambda: self._press(self._keyboard.flush()))

    def _press(self, keys: list[str]) -> None:
        before = self.state
        for key in keys:
            self.state = press(self.state, key)
        if self.state.quit and not before.quit:
            self._on_quit()
        if not self.state.paused:
            self._shown = self._newest
        if self.state != before:
            self._draw()

    def _draw(self) -> None:
        if self._output is None or self._is_gone:
            return
        self._is_stale = self._output.is_busy
        if self._is_stale:
            return
        size = self._output.size
        if self._shown is None:
            made = Frame(lines=[cut(WAITING, size.columns)], heading=-1, state=self.state)
        else:
            # plain lines leave the last line of the terminal to the cursor
            height = size.lines - (self._terminal is None)
            made = frame(self._shown, self.state, size.columns, height, users=self._users)
        self.state = made.state
        text = _drawn(made, size, self._terminal) if self._terminal else "".join(f"{line}\n" for line in made.lines)
        self._output.write(text.encode(self._encoding, "replace"))

    def _catch_up(self) -> None:
        """Draw the frame that was missed while the terminal took nothing."""
        if self._is_stale:
            self._draw()

    def _lose(self) -> None:
        asyncio.get_running_loop().remove_reader(self._input_fd)
        self._is_gone = True
        self._on_quit()


class TopSettings(SinkSettings, tag="top", frozen=True, kw_only=True):
    """Feed a screen like any other sink. The command line makes these settings; no plugin or settings file does."""

    screen: Screen
    send_timeout_s: ClassVar[float | None] = None

    def open(self) -> Screen:
        """Return the screen."""
        return self.screen


class _Styled(Terminal):
    """A terminal whose capabilities are known whatever its stream is, and whatever $NO_COLOR says.

    blessed takes NO_COLOR to mean "no escape sequences at all"; `ebpfmon top` draws, but uses no colours.
    """

    @property
    def does_styling(self) -> bool:
        return True


def terminal_of(term: str) -> Terminal:
    """Return what blessed knows about terminals of this $TERM (an xterm if it knows none). It does no I/O."""
    return _Styled(kind=term, stream=io.StringIO())


def _drawn(made: Frame, size: os.terminal_size, terminal: Terminal) -> str:
    """Return what draws a frame over the one before: write each line, then clear its rest, so that nothing flickers.

    A line as wide as the terminal has no rest: the cursor is still on its last character, which would be cleared.
    """
    text = ""
    for number, line in enumerate(made.lines):
        rest = terminal.clear_eol if columns(line) < size.columns else ""
        if number == made.heading:
            line, rest = f"{terminal.reverse}{pad(line, size.columns)}{terminal.normal}", ""
        elif number == 0:
            line = f"{terminal.bold}{line}{terminal.normal}"
        text += f"{terminal.move_yx(number, 0)}{line}{rest}"
    if len(made.lines) < size.lines:
        text += f"{terminal.move_yx(len(made.lines), 0)}{terminal.clear_eos}"
    return text


def _set_modes(fd: int, modes: list[object]) -> None:
    with suppress(termios.error):  # the terminal has gone
        # at once: a terminal that takes no output would never finish writing what it has
        termios.tcsetattr(fd, termios.TCSANOW, modes)  # type: ignore[arg-type]
