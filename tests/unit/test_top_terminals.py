"""`ebpfmon top` on terminals that hang, are closed or are simple, and without a terminal."""

from __future__ import annotations

import asyncio
import os
import termios

import pytest

from ebpfmon.errors import SettingsError, SinkGoneError
from ebpfmon.top.screen import Screen
from ebpfmon.top.state import State
from ebpfmon.top.view import render
from tests.unit.top_support import busy_snapshot, snapshot_of
from tests.unit.top_terminal import Quits, Terminal, run, screen


def test_a_terminal_without_a_size_has_80_columns_and_24_lines(terminal: Terminal) -> None:
    empty = Terminal(0, 0)
    empty.width, empty.height, empty.cells = terminal.width, terminal.height, terminal.cells

    async def test() -> None:
        with empty:
            async with screen(empty) as shown:
                await shown.send(busy_snapshot())
                await empty.until_it_shows(render(busy_snapshot(), State(), 80, 24))

    run(test)
    empty.close()


@pytest.mark.parametrize("shared", [False, True])
def test_a_hanging_terminal_misses_frames_delays_nothing_and_then_shows_the_newest(
    terminal: Terminal, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shared:  # a terminal of another user cannot be opened again

        def refuse(*_: object) -> int:
            raise PermissionError

        monkeypatch.setattr(os, "open", refuse)

    async def test() -> None:
        async with screen(terminal) as shown:
            for _ in range(2000):
                await shown.send(busy_snapshot(20))
            assert os.get_blocking(terminal.slave)
            await shown.send(snapshot_of({"tgid": 4242}))
            assert not terminal.history
            with terminal:
                await terminal.until_it_says(" 4242 ")
                await terminal.until_it_shows(render(snapshot_of({"tgid": 4242}), State(), 80, 24))
                assert terminal.history.count("1;1H") < 100

    run(test)


def test_a_hanging_terminal_does_not_delay_the_end_and_is_restored_later(terminal: Terminal) -> None:
    before = termios.tcgetattr(terminal.slave)

    async def test() -> None:
        async with screen(terminal) as shown:
            for _ in range(2000):
                await shown.send(busy_snapshot(20))
        assert termios.tcgetattr(terminal.slave) == before
        with terminal:
            await terminal.until(lambda: terminal.history[-2:] == ["?1049l", "23;0;0t"])

    run(test)


@pytest.mark.parametrize("term", ["dumb", "unknown", ""])
def test_a_terminal_of_unknown_abilities_gets_plain_lines(terminal: Terminal, term: str) -> None:
    async def test() -> None:
        with terminal:
            async with screen(terminal, term=term) as shown:
                await shown.send(busy_snapshot())
                expected = render(busy_snapshot(), State(), 80, 23)
                await terminal.until_it_shows(expected)
                terminal.type("r")
                await terminal.until_it_says("ascending")

    before = termios.tcgetattr(terminal.slave)
    run(test)
    assert terminal.history == []
    assert termios.tcgetattr(terminal.slave) == before


def test_characters_that_the_terminal_lacks_are_replaced(terminal: Terminal) -> None:
    async def test() -> None:
        with terminal:
            async with screen(terminal, encoding="ascii") as shown:
                await shown.send(snapshot_of({"tgid": 5, "comm": "café".encode()}))
                await terminal.until_it_says("caf? ")

    run(test)


def test_an_output_that_is_not_a_terminal_is_refused_with_the_remedy(terminal: Terminal) -> None:
    with (
        open(os.devnull, "w") as null,
        pytest.raises(
            SettingsError, match=r"^top: stdout is not a terminal; use --once, or --once --json for programs$"
        ),
    ):
        screen(terminal, output_fd=null.fileno())


def test_without_a_terminal_as_input_there_are_no_keys(terminal: Terminal) -> None:
    async def test(null: int) -> None:
        with terminal:
            async with screen(terminal, input_fd=null) as shown:
                await shown.send(busy_snapshot())
                await terminal.until_it_says("PID")

    with open(os.devnull) as null:
        run(lambda: test(null.fileno()))


def test_sending_to_a_closed_terminal_raises_sink_gone_error() -> None:
    quits, terminal = Quits(), Terminal()

    async def test() -> None:
        async with screen(terminal, quits) as shown:
            with terminal:
                await shown.send(busy_snapshot())
                await terminal.until_it_says("PID")
            os.close(terminal.master)
            terminal.master = -1
            with pytest.raises(SinkGoneError, match="the terminal was closed"):
                await shown.send(busy_snapshot())
            assert quits.count == 1

    run(test)
    terminal.close()


def test_a_closed_terminal_is_noticed_before_the_next_snapshot() -> None:
    terminal = Terminal()
    gone = asyncio.Event()

    async def test() -> None:
        ends = {"input_fd": terminal.slave, "output_fd": terminal.slave, "term": "xterm"}
        async with Screen(gone.set, **ends):  # type: ignore[arg-type]  # the values have several types
            os.close(terminal.master)
            terminal.master = -1
            await asyncio.wait_for(gone.wait(), 10)

    run(test)
    terminal.close()
