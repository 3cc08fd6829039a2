"""A stranger's code has its time, and no more."""

from __future__ import annotations

import threading
import time

import pytest

from ebpfmon.errors import PluginError
from ebpfmon.plugins.bounded import bounded


def test_what_is_done_in_time_is_returned_and_what_is_raised_is_raised() -> None:
    assert bounded(lambda: 7, "seven") == 7
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 // 0, "division")
    with pytest.raises(SystemExit):
        bounded(lambda: exit(3), "exit")


def test_what_waits_is_given_up_and_told_to_end() -> None:
    ended = threading.Event()

    def wait() -> None:
        try:
            while True:
                time.sleep(1)
        finally:
            ended.set()

    with pytest.raises(PluginError, match=r"did nothing for 0\.3 s"):
        bounded(wait, "waits", idle_s=0.3)
    assert ended.wait(60)


def test_what_goes_on_and_on_is_given_up_and_told_to_end() -> None:
    ended = threading.Event()

    def work() -> None:
        try:
            while True:
                pass
        finally:
            ended.set()

    with pytest.raises(PluginError, match=r"took longer than 0\.5 s"):
        bounded(work, "works", longest_s=0.5)
    assert ended.wait(60)


def test_what_is_slow_but_at_work_is_waited_for() -> None:
    def work() -> float:
        end = time.thread_time() + 1.4
        while time.thread_time() < end:
            pass
        return end

    assert bounded(work, "slow", idle_s=1) > 0
