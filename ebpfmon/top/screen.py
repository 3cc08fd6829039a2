"""Draw snapshots on a terminal, handle keys, and restore the terminal at the end.

blessed provides the escape sequences of the terminal and its keys. Its own input and output are not used, because they
block: until the terminal accepts the output, until the rest of a key arrives, and, when it restores the modes of the
terminal, until everything is written.
"""

from __future__ import annotations

import asyncio
import copy
import io
import os
import signal
import termios
import tty
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Self

from blessed import Terminal

from ebpfmon.errors import SettingsError, SinkGoneError
from ebpfmon.model import Snapshot
from ebpfmon.top.keyboard import Keyboard
from ebpfmon.top.output import Output
from ebpfmon.top.state import State, press
from ebpfmon.top.text import cut, display_width, pad
from ebpfmon.top.view import NO_USERS, Frame, frame

WAITING = "ebpfmon top: waiting for the first interval (q quits)"
_PLAIN = {"", "dumb", "unknown"}
"""Values of $TERM for terminals that may support no escape sequences. blessed would treat them as an xterm."""


class Screen:
    """A sink that shows the newest snapshot on a terminal and handles keys. It can be opened again.

    While the terminal accepts no output, frames are skipped, and nothing else is delayed. While another job of the
    shell is in the foreground, the terminal is left alone: Linux would stop a process that changes it or reads from it.
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
        """Check that the output is a terminal. Nothing is written until the screen is opened.

        `on_quit` is called when the user quits or the terminal was closed. `term` is $TERM: if it is empty or dumb,
        frames are written one after the other as plain lines. For `users` see `view.frame`. `escape_s` is how long the
        rest of a key may take to arrive. After that time, Escape is the Escape key.

        Raises SettingsError if the output is not a terminal. If the input is not a terminal, there are no keys.
        """
        if not os.isatty(output_fd):
            raise SettingsError("top: stdout is not a terminal; use --once, or --once --json for programs")
        self.state = state or State()
        self._on_quit = on_quit
        self._terminal = None if term in _PLAIN else describe_terminal(term)
        self._keyboard = Keyboard(self._terminal or describe_terminal("vt100"))
        self._encoding, self._escape_s = encoding, escape_s
        self._input_fd, self._output_fd = input_fd, output_fd
        self._users = users
        self._newest: Snapshot | None = None
        self._shown: Snapshot | None = None
        self._stack = ExitStack()
        self._output: Output | None = None
        self._is_stale = self._is_gone = self._is_entered = False
        self._modes: list[object] | None = None
        self._escape: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.state = replace(self.state, quit=False)
        self._is_stale = self._is_gone = self._is_entered = False
        self._keyboard.flush()
        with ExitStack() as stack:
            self._output = Output(self._output_fd, on_drained=self._catch_up, on_gone=self._on_gone)
            stack.callback(self._close)
            self._enter()
            for number, handler in (
                (signal.SIGWINCH, self._draw),
                (signal.SIGTSTP, self._suspend),
                (signal.SIGCONT, self._enter),
                (signal.SIGHUP, self._on_quit),
                (signal.SIGQUIT, self._on_quit),
            ):
                loop.add_signal_handler(number, handler)
                stack.callback(loop.remove_signal_handler, number)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stack.close()

    async def send(self, snapshot: Snapshot) -> None:
        """Show a snapshot, or keep it until the pause ends. Raises SinkGoneError if the terminal was closed."""
        self._newest = snapshot
        if not self.state.paused:
            self._shown = snapshot
            self._draw()
        if self._is_gone:
            raise SinkGoneError("the terminal was closed")

    def _enter(self) -> None:
        """Set up the terminal, at the start and whenever the process continues after a shell had stopped it."""
        if self._output is None or not self._is_in_foreground():
            return
        if os.isatty(self._input_fd):
            with suppress(termios.error):  # the terminal was closed
                modes = termios.tcgetattr(self._input_fd)
                self._modes = self._modes or copy.deepcopy(modes)
                # Clear ISIG, because Ctrl-Z and Ctrl-\ would stop or end the process without restoring the terminal.
                modes[tty.LFLAG] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
                modes[tty.CC][termios.VMIN], modes[tty.CC][termios.VTIME] = 1, 0
                _set_modes(self._input_fd, modes)
            asyncio.get_running_loop().add_reader(self._input_fd, self._read)
        if t := self._terminal:
            # Disable automatic wrap, because some terminals draw characters wider than Unicode says.
            enter = t.enter_fullscreen + t.hide_cursor + t.disable_line_wrap + t.clear
            self._output.write(enter.encode())
        self._is_entered = True
        self._draw()

    def _leaving(self) -> bytes:
        """Restore the modes of the terminal, and return the output that restores its screen."""
        asyncio.get_running_loop().remove_reader(self._input_fd)
        if not self._is_entered:
            return b""
        self._is_entered = False
        if self._modes and self._is_in_foreground():
            _set_modes(self._input_fd, self._modes)
        t = self._terminal
        return (t.normal + t.enable_line_wrap + t.normal_cursor + t.exit_fullscreen).encode() if t else b""

    def _close(self) -> None:
        if self._escape:
            self._escape.cancel()
        leaving = self._leaving()
        if self._output:
            self._output.close(leaving)
        self._output = self._modes = None

    def _suspend(self) -> None:
        """Stop the process, as SIGTSTP asks, with the terminal as it was before."""
        leaving = self._leaving()
        if self._output:
            self._output.write(leaving)
        os.kill(os.getpid(), signal.SIGSTOP)

    def _is_in_foreground(self) -> bool:
        """Return whether this process may use the terminal. If the terminal has no jobs, it may."""
        try:
            return os.tcgetpgrp(self._output_fd) == os.getpgrp()
        except OSError:  # it is not the terminal of this session
            return True

    def _read(self) -> None:
        if not self._is_in_foreground():
            asyncio.get_running_loop().remove_reader(self._input_fd)  # `_enter` adds it again
            return
        try:
            data = os.read(self._input_fd, 1024)
        except OSError:
            data = b""
        if not data:
            self._on_gone()
            return
        if self._escape:
            self._escape.cancel()
        self._press(self._keyboard.feed(data))
        if self._keyboard.has_partial_key:
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
        if self._output is None or self._is_gone or not self._is_in_foreground():
            return
        if not self._is_entered:
            self._enter()
            return
        self._is_stale = self._output.is_busy
        if self._is_stale:
            return
        size = self._output.size
        if self._shown is None:
            current = Frame(lines=[cut(WAITING, size.columns)], heading=-1, state=self.state)
        else:
            # Plain lines end with a newline, so the cursor needs the last line of the terminal.
            height = size.lines - (self._terminal is None)
            current = frame(self._shown, self.state, size.columns, height, users=self._users)
        self.state = current.state
        text = (
            _draw_over(current, size, self._terminal)
            if self._terminal
            else "".join(f"{line}\n" for line in current.lines)
        )
        self._output.write(text.encode(self._encoding, "replace"))

    def _catch_up(self) -> None:
        """Draw the frame that was missed while the terminal accepted nothing."""
        if self._is_stale:
            self._draw()

    def _on_gone(self) -> None:
        asyncio.get_running_loop().remove_reader(self._input_fd)
        self._is_gone = True
        self._on_quit()


class _Styled(Terminal):
    """A terminal that has its capabilities regardless of its stream and of $NO_COLOR.

    With NO_COLOR blessed uses no escape sequences at all. `ebpfmon top` needs them, but uses no colours.
    """

    @property
    def does_styling(self) -> bool:
        return True


def describe_terminal(term: str) -> Terminal:
    """Return blessed's description of a terminal with this $TERM, or of an xterm if it is unknown. Does no I/O."""
    return _Styled(kind=term, stream=io.StringIO())


def _draw_over(frame: Frame, size: os.terminal_size, terminal: Terminal) -> str:
    """Return the output that draws a frame over the previous one.

    Each line is written and its rest is cleared afterwards, so that nothing flickers. After a line as wide as the
    terminal nothing is cleared, because the cursor is still on the last character.
    """
    text = ""
    for number, line in enumerate(frame.lines):
        rest = terminal.clear_eol if display_width(line) < size.columns else ""
        if number == frame.heading:
            line, rest = f"{terminal.reverse}{pad(line, size.columns)}{terminal.normal}", ""
        elif number == 0:
            line = f"{terminal.bold}{line}{terminal.normal}"
        text += f"{terminal.move_yx(number, 0)}{line}{rest}"
    if len(frame.lines) < size.lines:
        text += f"{terminal.move_yx(len(frame.lines), 0)}{terminal.clear_eos}"
    return text


def _set_modes(fd: int, modes: list[object]) -> None:
    with suppress(termios.error):  # the terminal was closed
        # TCSANOW does not wait for pending output, which a terminal that accepts none would never finish.
        termios.tcsetattr(fd, termios.TCSANOW, modes)  # type: ignore[arg-type]
