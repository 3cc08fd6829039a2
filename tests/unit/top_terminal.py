"""A terminal for tests: the other end of a pty. It supports only the sequences that ebpfmon needs."""

from __future__ import annotations

import asyncio
import codecs
import fcntl
import os
import pty
import re
import struct
import termios
from collections.abc import Awaitable, Callable
from typing import Any, Self

from ebpfmon.top.screen import Screen
from ebpfmon.top.text import display_width

INITIAL_MODES = {"?7", "?25"}
"""The private modes of a terminal in its initial state: automatic wrap and a visible cursor."""
_PART = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])|([^\x1b])|(\x1b\[?[0-9;?]*(?=\x1b))")
"""A sequence, a character, or a sequence that is cut off by the next one."""


class Terminal:
    """The screen that a user sees (`lines`), and the keyboard.

    It fails on characters beyond its edges and on unknown sequences.
    """

    def __init__(self, width: int = 80, height: int = 24) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(width, height)
        self.modes: set[str] = set()
        """The private modes that are set."""
        self.history: list[str] = []
        """All sequences received so far. Plain characters between two sequences are one element."""
        self.reversed: set[int] = set()
        """The lines in reverse video."""
        self._changed = asyncio.Event()
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._begun = ""
        self._row = self._column = 0
        self._reverse = False

    def resize(self, width: int, height: int) -> None:
        """Change the size and clear the screen."""
        self.width, self.height = width, height
        self.cells = [[" "] * width for _ in range(height)]
        if width and height:
            fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def spoil(self) -> None:
        """Fill the screen with other text."""
        self.cells = [["x"] * self.width for _ in range(self.height)]

    def __enter__(self) -> Self:
        """Begin to read. Until then, the terminal hangs."""
        self._changed = asyncio.Event()
        asyncio.get_running_loop().add_reader(self.master, self.read)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self.master)

    def close(self) -> None:
        """Close both ends."""
        for fd in {self.master, self.slave} - {-1}:
            os.close(fd)
        self.master = self.slave = -1

    @property
    def lines(self) -> list[str]:
        """Return the lines. The second column of a wide character is left out."""
        return ["".join(line).rstrip() for line in self.cells]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def type(self, keys: str) -> None:
        """Type on the keyboard."""
        os.write(self.master, keys.encode())

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition is true, for a limited time."""
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_it_says(self, text: str) -> None:
        """Wait until this text is on the screen."""
        await self.until(lambda: text in self.text)

    async def until_it_shows(self, lines: list[str]) -> None:
        """Wait until exactly these lines are on the screen."""
        await self.until(lambda: self.lines == lines + [""] * (self.height - len(lines)))

    def read(self) -> None:
        """Draw what was received."""
        text, at = self._begun + self._decoder.decode(os.read(self.master, 1 << 16)), 0
        while part := _PART.match(text, at):
            at = part.end()
            if part[4] is not None:
                continue
            if part[3] is None:
                self.history.append(f"{part[1]}{part[2]}")
                self._sequence(part[1], part[2])
            else:
                self._character(part[3])
        self._begun = text[at:]
        assert len(self._begun) < 16, f"unknown sequence {self._begun!r}"
        self._changed.set()

    def _sequence(self, parameters: str, end: str) -> None:
        match parameters, end:
            case (_, "h" | "l") if parameters.startswith("?"):
                (self.modes.add if end == "h" else self.modes.discard)(parameters)
            case "", "H":
                self._row = self._column = 0
            case _, "H":
                row, column = parameters.split(";")
                self._row, self._column = int(row) - 1, int(column) - 1
            case _, "t":  # saves or restores the title of the window
                pass
            case "", "K":
                # As on real terminals, the cursor stays on the last column.
                start = min(self._column, self.width - 1)
                self.cells[self._row][start:] = [" "] * (self.width - start)
            case "", "J":
                for row_ in self.cells[self._row :]:
                    row_[:] = [" "] * self.width
            case "2", "J":
                self.cells = [[" "] * self.width for _ in range(self.height)]
                self.reversed.clear()
            case (("" | "1" | "7"), "m"):
                self._reverse = parameters == "7"
            case _:
                raise AssertionError(f"unknown sequence {parameters}{end}")

    def _character(self, c: str) -> None:
        if c == "\r":
            self._column = 0
        elif c == "\n":
            self._row += 1
            if self._row == self.height:
                self._row -= 1
                self.cells = [*self.cells[1:], [" "] * self.width]
        else:
            assert c.isprintable(), f"unprintable character {c!r}"
            width = display_width(c)
            assert self._column + width <= self.width, f"{c!r} does not fit at the end of {self.lines[self._row]!r}"
            self.cells[self._row][self._column : self._column + width] = [c, ""][:width]
            self._column += width
            (self.reversed.add if self._reverse else self.reversed.discard)(self._row)


class Quits:
    """Counts how often the screen called on_quit."""

    def __init__(self) -> None:
        self.count = 0

    def quit(self) -> None:
        self.count += 1


def screen(terminal: Terminal, quits: Quits | None = None, **options: Any) -> Screen:
    quits = quits or Quits()
    given: dict[str, Any] = {"term": "xterm", "input_fd": terminal.slave, "output_fd": terminal.slave} | options
    return Screen(quits.quit, **given)


def run(test: Callable[[], Awaitable[object]]) -> None:
    """Run in a new event loop, and fail if a callback fails."""

    async def main() -> None:
        failed: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
        async with asyncio.timeout(20):
            await test()
        assert not failed

    asyncio.run(main())
