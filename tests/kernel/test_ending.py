"""Sinks that block or fail in any way: they hold up nobody else, and a signal always ends the daemon."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel.support import EBPFMON
from tests.kernel.third_party import make_private

END_S = 5
HEAD = """
import asyncio, atexit, os, resource, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from ebpfmon import Setup, SinkSettings, hookimpl
EBPFMON_API_VERSION = 2
SINKS = []
class Base:
    async def __aenter__(self): return self
    async def __aexit__(self, *_): pass
    async def send(self, _): pass
"""
SINK = """
class Sink{n}(Base):
    pass
    {body}
class Settings{n}(SinkSettings, tag="{name}", frozen=True):
    def open(self): return Sink{n}()
SINKS.append(Settings{n})
"""
TAIL = """
@hookimpl
def ebpfmon_register_sinks(): return SINKS
"""
BLOCKS_MAIN_THREAD = """
@property
def capabilities(self):
    if threading.current_thread() is threading.main_thread(): time.sleep(3600)
    return frozenset()
SINKS[0].capabilities = capabilities
"""
BLOCKING = {
    "sleeps": "async def send(self, _): time.sleep(3600)",
    "waits_for_a_lock": "async def send(self, _): l = threading.Lock(); l.acquire(); l.acquire()",
    "waits_for_a_process": "async def send(self, _): subprocess.run(['sleep', '60'], start_new_session=True)",
    "sleeps_in_a_thread": "async def send(self, _): await asyncio.to_thread(time.sleep, 3600)",
    "swallows_its_cancellation": """
    async def send(self, _):
        while True:
            try: await asyncio.sleep(1)
            except BaseException: pass
""",
    "blocks_while_it_opens": "async def __aenter__(self): time.sleep(3600)",
    "blocks_while_it_closes": "async def __aexit__(self, *_): time.sleep(3600)",
    "leaves_a_task_that_never_ends": """
    async def send(self, _):
        async def forever():
            while True:
                try: await asyncio.sleep(1)
                except BaseException: pass
        self.task = asyncio.create_task(forever())
""",
}
NEVER_ENDING = {
    "computes": "async def send(self, _):\n        while True: pass",
    "has_threads_of_its_own": """
    pool = ThreadPoolExecutor(3)
    async def send(self, _): await asyncio.get_running_loop().run_in_executor(self.pool, time.sleep, 3600)
""",
    "starts_a_thread": "async def send(self, _): threading.Thread(target=time.sleep, args=(3600,)).start()",
    "hangs_at_exit": "async def __aenter__(self): atexit.register(time.sleep, 3600); return self",
}
"""For each of these, Python would never exit."""
FAILING = {
    "is_cancelled": "raise asyncio.CancelledError",
    "cancels_itself": "asyncio.current_task().cancel(); await asyncio.sleep(1)",
    "cancels_all_tasks": "[t.cancel() for t in asyncio.all_tasks()]; await asyncio.sleep(1)",
    "exits": "sys.exit(7)",
    "exits_with_0": "sys.exit()",
    "exits_in_a_task": "self.t = asyncio.create_task(self.e()); await self.t\n    async def e(self): sys.exit(7)",
    "is_interrupted": "raise KeyboardInterrupt",
    "is_a_generator_that_ends": "raise GeneratorExit",
    "raises_BaseException": "raise BaseException('x')",
    "stops_its_event_loop": "asyncio.get_running_loop().stop(); await asyncio.sleep(1)",
    "closes_its_event_loop": "l = asyncio.get_running_loop(); l.stop(); await asyncio.sleep(0); l.close()",
    "has_no_memory": "raise MemoryError",
    "has_lines_in_its_message": r"raise ValueError('one\ntwo \x1b[31m')",
}


class Daemon:
    """A daemon with hostile sinks and a log."""

    def __init__(self, process: subprocess.Popen[str], log: Path, stderr: Path) -> None:
        self.process, self._log, self._stderr = process, log, stderr

    @property
    def intervals(self) -> list[float]:
        """The lengths of the intervals in the log, in seconds."""
        return [json.loads(line)["elapsed_s"] for line in self._log.read_text().splitlines()]

    @property
    def messages(self) -> str:
        """What the daemon has written to stderr."""
        return self._stderr.read_text()

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition while the daemon runs."""
        end = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None, self.messages
            assert time.monotonic() < end, self.messages
            time.sleep(0.05)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and return the exit status. Raises TimeoutExpired after END_S."""
        self.process.send_signal(number)
        return self.process.wait(END_S)


@contextmanager
def running(tmp_path: Path, sinks: Mapping[str, str], code: str = "", stderr: int | None = None) -> Iterator[Daemon]:
    """Run a daemon with these hostile sinks, given by the code of their class, and with a log.

    `code` is added to their plugin. `stderr` replaces the file that `Daemon.messages` reads.
    """
    folder, log, messages = tmp_path / "plugins", tmp_path / "log", tmp_path / "stderr"
    folder.mkdir()
    classes = "".join(SINK.format(n=n, name=name, body=body) for n, (name, body) in enumerate(sinks.items()))
    (folder / "hostile.py").write_text(HEAD + classes + code + TAIL)
    make_private(folder)
    log.touch()
    settings = tmp_path / "e.toml"
    settings.write_text(
        f'[ebpfmon]\nplugins_dir = "{folder}"\n[plugins.network_viewer]\nenabled = false\n'
        f'[[sinks]]\ntype = "log"\nformat = "json"\npath = "{log}"\ncharts = ["ebpf.io"]\n'
        + "".join(f'[[sinks]]\ntype = "{name}"\ncharts = ["ebpf.io"]\n' for name in sinks)
    )
    with (
        messages.open("w") as file,
        subprocess.Popen([*EBPFMON, "run", "--config", settings], stderr=stderr or file, text=True) as process,
    ):
        try:
            yield Daemon(process, log, messages)
        finally:
            process.kill()


def test_sinks_that_block_delay_no_other_are_named_and_lose_only_their_own_snapshots(tmp_path: Path) -> None:
    with running(tmp_path, BLOCKING) as daemon:
        daemon.until(lambda: "sink 'sleeps' drops snapshots" in daemon.messages)
        assert daemon.end() == 0, daemon.messages
        lengths, messages = daemon.intervals, daemon.messages
    assert len(lengths) >= 9
    assert max(lengths) < 2, "a sink delayed a tick"
    drops = r"sink 'sleeps' drops snapshots, because it has delivered none for \d+ s; it blocks in send\(\) \(.*:\d+\)"
    assert re.search(drops, messages)
    ends = r"sink 'sleeps' does not end, and \d+ snapshots are lost; it blocks in send\(\) \(.*hostile\.py:\d+\)"
    assert re.search(ends, messages)
    assert "sink 'swallows_its_cancellation' does not end" in messages
    assert "Traceback" not in messages


def test_what_would_keep_python_from_exiting_does_not_keep_the_daemon(tmp_path: Path) -> None:
    with running(tmp_path, NEVER_ENDING) as daemon:
        daemon.until(lambda: len(daemon.intervals) >= 3)
        assert daemon.end() == 0, daemon.messages


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_daemon_while_a_plugin_blocks_its_main_thread(number: signal.Signals, tmp_path: Path) -> None:
    with running(tmp_path, {"x": ""}, BLOCKS_MAIN_THREAD) as daemon:
        daemon.until(lambda: "probe 'process'" in daemon.messages)
        assert daemon.end(number) == 1
        messages = daemon.messages
    where = r"thread 'MainThread' is in capabilities\(\) \(.*/hostile\.py:\d+\)"
    assert re.fullmatch(f"ebpfmon: has not ended within 4 s, so it ends now: {where}", messages.splitlines()[-1])


def test_a_signal_ends_the_daemon_while_nobody_reads_its_messages(tmp_path: Path) -> None:
    sinks = {f"exits_{n}": "async def send(self, _): raise ValueError(os.urandom(4000).hex())" for n in range(20)}
    read, write = os.pipe()
    with running(tmp_path, sinks, stderr=write) as daemon:
        os.close(write)
        daemon.until(lambda: len(daemon.intervals) >= 4)
        daemon.end()
        assert max(daemon.intervals) < 2
    with open(read, "rb") as pipe:
        assert len(pipe.read()) > 1 << 15


def test_a_sink_that_raises_anything_is_tried_again_and_ends_nothing(tmp_path: Path) -> None:
    with running(tmp_path, {name: f"async def send(self, _): {code}" for name, code in FAILING.items()}) as daemon:
        daemon.until(lambda: len(daemon.intervals) >= 4)
        daemon.until(lambda: all(f"sink '{name}' has failed and will" in daemon.messages for name in FAILING))
        assert daemon.end() == 0, daemon.messages
        messages = daemon.messages
    assert "Traceback" not in messages
    assert r"ValueError: one two \x1b[31m" in messages


def test_a_hangup_during_the_start_ends_nothing_and_reloads_the_settings(tmp_path: Path) -> None:
    with running(tmp_path, {}) as daemon:
        status = Path(f"/proc/{daemon.process.pid}/status")
        daemon.until(lambda: re.search(r"^SigBlk:\t0*1$", status.read_text(), re.M))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: "ebpfmon: reloaded the settings" in daemon.messages)
        assert daemon.end() == 0, daemon.messages


RELOADING = """
from ebpfmon import Probe, ProbeSettings, SettingsError
class BadSettings(ProbeSettings, frozen=True):
    enabled: bool = False
    how: str = ""
KINDS = {kind.__name__: kind for kind in (SystemExit, KeyboardInterrupt, GeneratorExit, OSError, BaseException)}
def set_up(settings):
    if settings.how == "hang": time.sleep(3600)
    raise KINDS[settings.how]("from set_up")
@hookimpl
def ebpfmon_register_probes():
    return [Probe(name="bad", package=__name__, object="bad", charts=(), settings=BadSettings, setup=set_up)]
class Picky(SinkSettings, tag="picky", frozen=True):
    how: str = ""
    where: str = ""
    def __post_init__(self):
        if self.where == "check": raise KINDS[self.how]("from the check")
    @property
    def resources(self):
        if self.where == "resources": raise KINDS[self.how]("from resources")
        return frozenset()
    @property
    def capabilities(self):
        if self.where == "capabilities": raise KINDS[self.how]("from capabilities")
        return frozenset()
    def open(self): return Base()
SINKS.append(Picky)
"""
KINDS = ("SystemExit", "KeyboardInterrupt", "BaseException")
BAD_SETTINGS: dict[str, str | bytes] = {
    "no TOML": "]",
    "not UTF-8": b"\xff\xfe\x00",
    "a path that is too long": f'[groups]\nfile = "{"x" * 300}"\n',
    "a path with a NUL": '[groups]\nfile = "a\\u0000b"\n',
    "a folder": '[groups]\nfile = "/"\n',
    "a path below a file": '[groups]\nfile = "/etc/passwd/x"\n',
    "a device": '[groups]\nfile = "/dev/zero"\n',
    **{f"a check that raises {k}": f'[[sinks]]\ntype = "picky"\nwhere = "check"\nhow = "{k}"\n' for k in KINDS},
    **{
        f"{what} that raise {k}": f'[[sinks]]\ntype = "picky"\nwhere = "{what}"\nhow = "{k}"\n'
        for what in ("resources", "capabilities")
        for k in KINDS
    },
}
"""Settings that a reload must refuse."""
LEFT_OUT = {k: f'[plugins.bad]\nenabled = true\nhow = "{k}"\n' for k in KINDS}
"""Settings with a probe that a reload must leave out."""


def test_a_reload_that_fails_in_any_way_changes_nothing(tmp_path: Path) -> None:
    with running(tmp_path, {}, RELOADING) as daemon:
        daemon.until(lambda: daemon.intervals)
        good = (tmp_path / "e.toml").read_bytes()
        for count, (what, text) in enumerate(BAD_SETTINGS.items(), 1):
            (tmp_path / "e.toml").write_bytes(text if isinstance(text, bytes) else good + text.encode())
            daemon.process.send_signal(signal.SIGHUP)
            refused = lambda count=count: len(re.findall("^ebpfmon: cannot reload", daemon.messages, re.M)) == count  # noqa: E731
            try:
                daemon.until(refused)
            except AssertionError:
                pytest.fail(f"{what}: {daemon.messages}")
        for what, text in LEFT_OUT.items():
            (tmp_path / "e.toml").write_bytes(good + text.encode())
            daemon.process.send_signal(signal.SIGHUP)
            line = f"ebpfmon: probe 'bad' is left out: cannot set up probe 'bad': {what}: from set_up"
            daemon.until(lambda line=line: line in daemon.messages)  # type: ignore[misc]
        seen = len(daemon.intervals)
        daemon.until(lambda: len(daemon.intervals) > seen + 1)
        assert daemon.end() == 0, daemon.messages
        assert max(daemon.intervals) < 2
        messages = daemon.messages
    assert "Traceback" not in messages


def test_a_reload_waits_for_no_tick(tmp_path: Path) -> None:
    with running(tmp_path, {}) as daemon:
        settings = tmp_path / "e.toml"
        good = settings.read_text()
        daemon.until(lambda: daemon.intervals)
        settings.write_text(good.replace("[ebpfmon]", "[ebpfmon]\ninterval = 3600"))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: daemon.messages.count("reloaded the settings") == 1)
        settings.write_text("]")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: "cannot reload" in daemon.messages)
        seen = len(daemon.intervals)
        settings.write_text(good)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: daemon.messages.count("reloaded the settings") == 2)
        daemon.until(lambda: len(daemon.intervals) > seen + 1)
        assert daemon.end() == 0, daemon.messages


def test_a_storm_of_reloads_holds_up_no_tick(tmp_path: Path) -> None:
    with running(tmp_path, {}) as daemon:
        daemon.until(lambda: daemon.intervals)
        for _ in range(300):
            daemon.process.send_signal(signal.SIGHUP)
            time.sleep(0.01)
        daemon.until(lambda: len(daemon.intervals) >= 4)
        assert daemon.end() == 0, daemon.messages
        assert max(daemon.intervals) < 2


def test_a_reload_that_does_not_end_changes_nothing_and_the_daemon_still_ends(tmp_path: Path) -> None:
    with running(tmp_path, {}, RELOADING) as daemon:
        daemon.until(lambda: daemon.intervals)
        with (tmp_path / "e.toml").open("a") as settings:
            settings.write('[plugins.bad]\nenabled = true\nhow = "hang"\n')
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: "probe 'bad': setting it up takes longer than 5 s" in daemon.messages)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: "the last reload has not ended yet" in daemon.messages)
        assert daemon.end() == 0, daemon.messages
        assert max(daemon.intervals) < 2
