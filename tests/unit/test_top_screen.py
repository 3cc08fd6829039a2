"""`ebpfmon top` on a real terminal: keys, frames, and restored modes."""

from __future__ import annotations

import asyncio
import os
import signal
import termios
from contextlib import suppress

import pytest

from ebpfmon.top.screen import WAITING
from ebpfmon.top.state import State
from ebpfmon.top.view import render
from tests.unit.top_support import busy_snapshot, snapshot_of
from tests.unit.top_terminal import INITIAL_MODES, Quits, Terminal, run, screen

SCREEN_MODES = {"?1049"}  # the alternate screen


def test_the_newest_snapshot_is_drawn_and_the_terminal_is_restored(terminal: Terminal) -> None:
    before = termios.tcgetattr(terminal.slave)
    descriptors = os.listdir("/proc/self/fd")

    async def test() -> None:
        with terminal:
            async with screen(terminal) as shown:
                await terminal.until(lambda: terminal.lines[0] == WAITING)
                during = termios.tcgetattr(terminal.slave)
                assert not during[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
                assert terminal.modes == SCREEN_MODES
                for made in (snapshot_of({"tgid": 99}), busy_snapshot()):
                    await shown.send(made)
                    await terminal.until_it_shows(render(made, State(), 80, 24))
                assert terminal.reversed == {5}
            await terminal.until(lambda: terminal.modes == INITIAL_MODES)

    run(test)
    assert termios.tcgetattr(terminal.slave) == before
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)
    assert signal.getsignal(signal.SIGWINCH) == signal.getsignal(signal.SIGCONT) == signal.SIG_DFL


@pytest.mark.parametrize("how", ["error", "cancelled", "closed twice", "error while opening"])
def test_the_terminal_is_restored_however_the_screen_ends(
    terminal: Terminal, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = termios.tcgetattr(terminal.slave)

    async def use() -> None:
        async with screen(terminal) as shown:
            await shown.send(busy_snapshot())
            await terminal.until_it_says("PID")
            assert termios.tcgetattr(terminal.slave) != before
            if how == "error":
                raise ZeroDivisionError
            if how == "cancelled":
                terminal.type("x")
                await asyncio.Event().wait()
        await shown.__aexit__(None, None, None)

    async def test() -> None:
        loop = asyncio.get_running_loop()
        if how == "error while opening":
            monkeypatch.setattr(loop, "add_signal_handler", lambda *_: 1 / 0)
        with terminal:
            task = asyncio.create_task(use())
            if how == "cancelled":
                await terminal.until_it_says("PID")
                task.cancel()
            with suppress(ZeroDivisionError, asyncio.CancelledError):
                await task
            assert not loop.remove_reader(terminal.slave)
            await terminal.until(lambda: terminal.history[-2:] == ["?1049l", "23;0;0t"])
            assert terminal.modes == INITIAL_MODES

    run(test)
    assert termios.tcgetattr(terminal.slave) == before
    assert "?1049h" in terminal.history


def test_keys_sort_scroll_filter_and_pause(terminal: Terminal) -> None:
    async def test() -> None:
        with terminal:
            async with screen(terminal) as shown:
                await shown.send(busy_snapshot())
                for keys, text in (
                    ("\x1b[D", "by CLOSE desc"), ("\x1b[C\x1bOC", "by RBYTES desc"), (">", "by WRITE desc"),
                    ("r", "by WRITE asc"), ("P", "by PID asc"), ("\x1b[B", "2-"), ("\x1b[F", "-60 of 60"),
                    ("\x1b[H", "processes 1-"), ("\x1b[6~", "processes 18-"), ("\x1b[5~", "processes 1-"),
                    ("/proc1", "with 'proc1'"), ("\x7f3", "with 'proc3'"), ("\r", "q quit"),
                    ("g", "groups none with 'proc3'"), ("/\x1b", "groups 1-"), ("?", "ctrl-c"), ("?", "groups 1-"),
                    (" ", "PAUSED"),
                ):  # fmt: skip
                    terminal.type(keys)
                    await terminal.until_it_says(text)

    run(test)


def test_a_paused_screen_keeps_its_interval_and_then_shows_the_newest(terminal: Terminal) -> None:
    async def test() -> None:
        with terminal:
            async with screen(terminal) as shown:
                await shown.send(snapshot_of({"tgid": 111}))
                terminal.type("p")
                await terminal.until_it_says("PAUSED")
                await shown.send(snapshot_of({"tgid": 222}))
                terminal.type("r")
                await terminal.until_it_says("ascending")
                assert " 111 " in terminal.text
                await shown.send(snapshot_of({"tgid": 333}))
                terminal.type("p")
                await terminal.until_it_says(" 333 ")
                assert "PAUSED" not in terminal.text
                assert " 222 " not in terminal.text

    run(test)


@pytest.mark.parametrize("key", ["q", "\x03"])
def test_quitting_calls_on_quit_once_and_keeps_what_the_user_chose(terminal: Terminal, key: str) -> None:
    quits = Quits()

    async def test() -> None:
        with terminal:
            async with screen(terminal, quits) as shown:
                await shown.send(busy_snapshot())
                terminal.type("b")
                await terminal.until_it_says("by process")
                assert quits.count == 0
                terminal.type(f"{key}b")
                await terminal.until_it_says("by user")
                terminal.type(f"{key}r")
                await terminal.until_it_says("ascending")
                assert quits.count == 1
            async with shown:  # It keeps all choices except quitting.
                await terminal.until(lambda: terminal.text.count("by user") == 1)
                assert not shown.state.quit

    run(test)


def test_escape_is_a_key_unless_more_bytes_follow_in_time(terminal: Terminal) -> None:
    async def test(escape_s: float) -> None:
        with terminal:
            async with screen(terminal, escape_s=escape_s) as shown:
                await shown.send(busy_snapshot())
                terminal.type("/7\x1b")
                await terminal.until_it_says("with '7'")
                if escape_s < 1:
                    await terminal.until(lambda: "with '7'" not in terminal.text)
                else:
                    terminal.type("[")
                    terminal.type("Dx\r")
                    await terminal.until_it_says("with '7x'")

    run(lambda: test(0.001))
    run(lambda: test(60))


def test_the_screen_is_redrawn_after_a_resize(terminal: Terminal) -> None:
    async def test() -> None:
        with terminal:
            async with screen(terminal) as shown:
                await shown.send(busy_snapshot())
                await terminal.until_it_shows(render(busy_snapshot(), State(), 80, 24))
                for width, height in ((40, 10), (200, 50), (9, 2), (1, 1), (80, 24)):
                    terminal.resize(width, height)
                    terminal.spoil()
                    os.kill(os.getpid(), signal.SIGWINCH)
                    expected = render(busy_snapshot(), State(), width, height)
                    await terminal.until_it_shows(expected)

    run(test)


def test_a_shorter_frame_erases_the_rest_of_the_previous_one(terminal: Terminal) -> None:
    async def test() -> None:
        terminal.resize(80, 2)
        with terminal:
            async with screen(terminal) as shown:
                for made in (busy_snapshot(), snapshot_of()):
                    await shown.send(made)
                    await terminal.until_it_shows(render(made, State(), 80, 2))
                assert terminal.lines[1] == ""

    run(test)


def test_after_sigcont_the_terminal_is_set_up_and_redrawn(terminal: Terminal) -> None:
    before = termios.tcgetattr(terminal.slave)

    async def test() -> None:
        with terminal:
            async with screen(terminal) as shown:
                await shown.send(busy_snapshot())
                await terminal.until_it_says("PID")
                during = termios.tcgetattr(terminal.slave)
                termios.tcsetattr(terminal.slave, termios.TCSANOW, before)  # as a shell does
                terminal.resize(80, 24)
                terminal.modes = set(INITIAL_MODES)
                os.kill(os.getpid(), signal.SIGCONT)
                await terminal.until_it_shows(render(busy_snapshot(), State(), 80, 24))
                assert terminal.modes == SCREEN_MODES
                assert termios.tcgetattr(terminal.slave) == during

    run(test)
    assert termios.tcgetattr(terminal.slave) == before
