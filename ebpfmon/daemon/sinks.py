"""Run each sink in a thread of its own, so that no sink can delay the daemon or another sink.

Each thread has its own event loop, its own threads for blocking calls, and only the capabilities of its sink. All are
daemon threads: a sink that never returns cannot keep the process from ending.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from ebpfmon.errors import KernelError, SettingsError, describe
from ebpfmon.kernel import capabilities
from ebpfmon.model import SinkSettings, tag_of
from ebpfmon.pipeline.publish import Publisher, SinkTask
from ebpfmon.resources import overlap
from ebpfmon.threads import Pool, position, start_thread

log = logging.getLogger(__name__)

BLOCKING_CALLS = 4
"""How many blocking calls of one sink may run at a time, those that never return included."""
OPENING_S = 5.0
"""How long a sink may use the capabilities that opening it may need."""
RETRY_S = 1.0
"""How long to wait for a descriptor that the system cannot give now."""
_CAUSES = 8
"""How many causes of an error to look at. A plugin's error may even be its own cause."""
LEAVE_S = 0.5
"""How long a sink that is cancelled may take to release what it holds."""


@dataclass(frozen=True, slots=True)
class PreparedSink:
    """The settings of a sink, the resources that only one sink may use at a time, and the capabilities to keep."""

    settings: SinkSettings
    resources: frozenset[str]
    capabilities: frozenset[str]


def prepare(sinks: Iterable[SinkSettings]) -> list[PreparedSink]:
    """Ask the settings of each sink what it needs. May block. Raises SettingsError, whatever a plugin's code raises."""
    prepared = []
    for settings in sinks:
        try:
            needs = frozenset(settings.resources), frozenset(settings.capabilities)
        except BaseException as error:
            raise SettingsError(f"cannot use sink '{settings.name or tag_of(settings)}': {describe(error)}") from error
        prepared.append(PreparedSink(settings, *needs))
    return prepared


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that runs blocking calls in its own daemon threads, also those of libraries.

    asyncio's own executor is not used, because closing the loop would wait for its threads without a limit.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._pool = Pool(name, BLOCKING_CALLS)

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        return super().run_in_executor(executor or self._pool, func, *args)

    def renew_threads(self) -> None:
        """Start new threads from now on. They have the present capabilities of the thread that starts them."""
        self._pool.shutdown()
        self._pool = Pool(self._name, BLOCKING_CALLS)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        super().close()


class SinkThread:
    """A thread that runs the task of one sink."""

    def __init__(
        self,
        task: SinkTask,
        sink: PreparedSink,
        waits_for: Iterable[SinkThread],
        on_end: Callable[[SinkThread], None],
    ) -> None:
        """Create the thread, but do not start it yet.

        `task` is that of `sink`. `start` does nothing until all threads in `waits_for` have ended. `on_end` is called
        in the event loop of the daemon.
        """
        self.task, self.sink = task, sink
        self.has_started = self.has_ended = False
        self._waits_for = list(waits_for)
        self._on_end = on_end
        self._daemon_loop = asyncio.get_running_loop()
        self._loop: _Loop | None = None
        self._ended = asyncio.Event()
        self._dropped = self._errors = 0
        self._is_late = False
        self._thread = threading.Thread(target=self._run, name=f"sink {task.name}", daemon=True)

    def start(self) -> None:
        """Start the thread if that is possible now. Call this at each tick until it has started."""
        if self.has_started or not all(other.has_ended for other in self._waits_for):
            return
        try:
            start_thread(self._thread)
        except RuntimeError as error:
            self.task.failed(error)
        else:
            self.has_started = True

    async def end(self) -> None:
        """Wait until the thread has ended. It ends when the task has delivered everything after `close`."""
        if self.has_started or self._waits_for:
            await self._ended.wait()

    def cancel(self) -> None:
        """Ask the task to end now."""
        if self._loop:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self.task.cancel)

    def report(self) -> None:
        """Log if the sink has begun to drop snapshots without an error, and if it delivers again."""
        statistics = self.task.statistics
        dropped, errors = statistics.dropped - self._dropped, statistics.errors - self._errors
        self._dropped, self._errors = statistics.dropped, statistics.errors
        if dropped and not (errors or self._is_late or self.task.is_failing):
            self._is_late = True
            age_s = time.monotonic() - statistics.succeeded_s
            log.warning(
                "sink '%s' drops snapshots, because it has delivered none for %.0f s%s",
                self.task.name, age_s, self._position(),
            )  # fmt: skip
        elif self._is_late and not statistics.queue_length:
            self._is_late = False
            log.warning("sink '%s' delivers snapshots again", self.task.name)

    def report_end(self, *, is_former: bool) -> None:
        """Log in one line what a sink that was told to end has lost, and why. Log nothing if it has lost nothing.

        A former sink is one that a reload has removed or replaced.
        """
        sink = f"{'the former ' if is_former else ''}sink '{self.task.name}'"
        lost = self.task.undelivered
        snapshots = f"{lost} snapshot{'s' * (lost != 1)}"
        if self.has_started and not self.has_ended:
            are = "is" if lost == 1 else "are"
            log.warning("%s does not end, and %s %s lost%s", sink, snapshots, are, self._position())
        elif lost:
            reason = self.task.reason if self.task.is_failing else "it had no time left to deliver them"
            log.warning("%s has lost its last %s: %s", sink, snapshots if lost > 1 else "snapshot", reason)
        elif self.task.is_failing:
            log.warning("%s has failed while it was stopping: %s", sink, self.task.reason)

    def _position(self) -> str:
        """Return where the thread blocks its event loop, or an empty string if the loop just waits."""
        where = position(self._thread)
        return f"; it blocks in {where}" if where else ""

    def _run(self) -> None:
        try:
            while loop := self._make_loop():
                self._loop = loop
                asyncio.set_event_loop(loop)
                loop.set_exception_handler(self._log_exception)
                loop.create_task(self._drop_privileges(loop), name="drop privileges")
                main = loop.create_task(self.task.run(), name=self._thread.name)
                # An event loop stops if any of its tasks raises SystemExit or KeyboardInterrupt.
                while not (main.done() or loop.is_closed()):
                    try:
                        loop.run_until_complete(main)
                    except BaseException as error:
                        self.task.failed(error)
                if main.done():
                    self._close(loop)
                    if not main.cancelled() and main.exception() is None:
                        return
                    time.sleep(RETRY_S)
        finally:
            with suppress(RuntimeError):  # the daemon has ended
                self._daemon_loop.call_soon_threadsafe(self._set_ended)

    def _log_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log in one line what asyncio reports, such as an exception of a task that nobody waits for."""
        error = context.get("exception")
        reason = f": {describe(error)}" if error else ""
        log.warning("sink '%s': %s%s", self.task.name, context["message"], reason)

    def _make_loop(self) -> _Loop | None:
        """Return an event loop, as soon as the system has three descriptors for it; None if the sink is to end.

        A sink that has never run gets one in any case. It has waited for another sink, and has snapshots to deliver
        even if it was closed meanwhile.
        """
        while not (self._loop and self.task.mailbox.closed):
            try:
                return _Loop(self._thread.name)
            except OSError as error:
                self.task.failed(error)
            time.sleep(RETRY_S)
        return None

    async def _drop_privileges(self, loop: _Loop) -> None:
        """Drop all capabilities except those that the sink asks for, once opening it has succeeded or failed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(OPENING_S):
                await self.task.open_attempted.wait()
        while True:
            try:
                capabilities.drop(self.sink.capabilities)
            except (OSError, KernelError) as error:
                self.task.failed(error)
                await asyncio.sleep(RETRY_S)
            else:
                loop.renew_threads()
                return

    def _close(self, loop: _Loop) -> None:
        """Cancel what the sink has left running, and close the loop."""
        with suppress(BaseException):
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left, timeout=LEAVE_S))
            loop.run_until_complete(loop.shutdown_asyncgens())
        with suppress(BaseException):
            loop.close()

    def _set_ended(self) -> None:
        self.has_ended = True
        self._ended.set()
        self._on_end(self)


class Sinks:
    """The running sinks. All methods must be called in the event loop of the daemon."""

    def __init__(self, publisher: Publisher, on_last_end: Callable[[], None]) -> None:
        """Start without sinks. `on_last_end` is called when the last sink has ended without being told to."""
        self._publisher, self._on_last_end = publisher, on_last_end
        self._threads: list[SinkThread] = []
        self._at_start = capabilities.held()

    def __len__(self) -> int:
        return len(self._publisher.sinks)

    def update(self, wanted: Iterable[PreparedSink]) -> None:
        """Keep the sinks whose settings have not changed, end the others, and start new ones.

        A new sink that needs a resource of an old one, such as a port, starts when the old one has ended.
        """
        new = list(wanted)
        for task in list(self._publisher.sinks):
            settings = [sink.settings for sink in new]
            if task.settings in settings:
                del new[settings.index(task.settings)]
            else:
                task.close()
                self._publisher.sinks.remove(task)
        ending = [thread for thread in self._threads if thread.task not in self._publisher.sinks]
        for sink in new:
            holders = [thread for thread in ending if overlap(thread.sink.resources, sink.resources)]
            task = SinkTask(sink.settings, partial(missing_right, sink.capabilities, self._at_start))
            self._publisher.sinks.append(task)
            self._threads.append(SinkThread(task, sink, holders, self._ended))
        self.supervise()

    def supervise(self) -> None:
        """Start the sinks that could not start before, and log which sinks have begun to drop snapshots.

        Call this after each tick.
        """
        for thread in self._threads:
            thread.start()
            thread.report()

    async def close(self, limit_s: float) -> None:
        """Let the sinks deliver their queued snapshots for this long, then leave them. Logs what each has lost."""
        self._publisher.close()
        threads = list(self._threads)
        waiting = [asyncio.create_task(thread.end(), name=f"end of {thread.task.name}") for thread in threads]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=limit_s)
            if late:
                for thread in threads:
                    thread.cancel()
                await asyncio.wait(waiting, timeout=LEAVE_S)
        for task in waiting:
            task.cancel()
        for thread in threads:
            if not thread.has_ended:
                self._report_end(thread)

    def _report_end(self, thread: SinkThread) -> None:
        thread.report_end(is_former=thread.task not in self._publisher.sinks)

    def _ended(self, ended: SinkThread) -> None:
        """Forget a sink that has ended. Start those that waited for it."""
        self._threads.remove(ended)
        if ended.task.mailbox.closed:
            self._report_end(ended)
        for thread in self._threads:
            thread.start()
        if ended.task in self._publisher.sinks and not ended.task.mailbox.closed:
            self._publisher.sinks.remove(ended.task)
            if not self._publisher.sinks:
                self._on_last_end()


def missing_right(needed: frozenset[str], at_start: frozenset[str], error: BaseException) -> str:
    """Return what to do if a sink fails because it lacks a capability, after "; "; otherwise an empty string.

    `needed` are the capabilities of the sink, `at_start` those that the daemon had when it started.
    Call this in the thread of the sink.
    """
    if not _is_refusal(error):
        return ""
    held = capabilities.held()
    missing = needed - held
    if never_held := missing - at_start:
        names = " and ".join(sorted(f"CAP_{name.upper()}" for name in never_held))
        return f"; this needs {names} (in a systemd unit: CapabilityBoundingSet=)"
    if missing:
        return "; ebpfmon gave up the right to do this right after its start: restart ebpfmon"
    if os.geteuid() == 0 and not held & {"dac_override", "dac_read_search"}:
        return (
            "; ebpfmon gives up root's right to open the files of other users right after its start: "
            "make root the owner (chown root)"
        )
    return ""


def _is_refusal(error: BaseException | None) -> bool:
    """Return whether an error says, or was raised because, the kernel does not permit something."""
    for _ in range(_CAUSES):
        if error is None or isinstance(error, PermissionError):
            break
        error = error.__cause__ or error.__context__
    return isinstance(error, PermissionError)
