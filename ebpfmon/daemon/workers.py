"""The daemon's threads, and the capabilities that each of them keeps after the programs have been attached.

In Linux each thread has its own capabilities. The event loop keeps only those that sinks ask for, and hands them to the
threads of the sinks. The thread that loads programs at a reload keeps those that loading needs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from contextlib import suppress
from typing import TypeVar

from ebpfmon.errors import KernelError, describe
from ebpfmon.kernel import capabilities
from ebpfmon.threads import Worker

T = TypeVar("T")
_PTRACE = "sys_ptrace"  # reads /proc/PID/exe and /proc/PID/ns/net of other users' processes
_LOADING = frozenset({"bpf", "perfmon"})
_OPENING = frozenset({"chown", "dac_override", "dac_read_search", "fowner", "net_bind_service"})


def needed_for_loading(held: frozenset[str]) -> frozenset[str]:
    """Return the capabilities that loading needs.

    CAP_SYS_ADMIN is among them only if CAP_BPF or CAP_PERFMON, which were split from it, is missing.
    """
    return (_LOADING if held >= _LOADING else _LOADING | {"sys_admin"}) | {_PTRACE}


class Workers:
    """One thread for each kind of blocking work. All start at once, so that a lack of threads shows at the start.

    The threads have all capabilities of the thread that creates this, until they drop privileges.
    """

    def __init__(self, others: Iterable[Executor] = ()) -> None:
        """Start the threads. `others` are executors whose threads need no capabilities. Raises KernelError."""
        self._others = tuple(others)
        try:
            self.harvest, self.lookup, self.loading = Worker("harvest"), Worker("lookup"), Worker("loading")
        except RuntimeError as error:
            raise KernelError(f"cannot start ebpfmon's threads: {describe(error)}") from None

    def close(self) -> None:
        """End the threads. Does not wait for calls that are still running."""
        for worker in (self.harvest, self.lookup, self.loading):
            worker.shutdown(cancel_futures=True)

    async def drop_privileges(self, dry_run: Callable[[], object]) -> None:
        """Drop, in each thread, all capabilities that its work does not need.

        The event loop's thread keeps those that sinks may need to open. `dry_run` does what a harvest does, and
        raises KernelError if a capability is missing. Raises KernelError if capabilities cannot be dropped.
        """

        def can_harvest() -> bool:
            dry_run()
            return True

        await run(self.harvest, lambda: capabilities.drop(capabilities.needed(can_harvest)))
        await run(self.lookup, lambda: capabilities.drop(frozenset({_PTRACE})))
        await run(self.loading, lambda: capabilities.drop(needed_for_loading(capabilities.held())))
        for other in self._others:
            await run(other, lambda: capabilities.drop(frozenset()))
        capabilities.drop(_OPENING)


def switch_user(user: str, of_sinks: frozenset[str]) -> None:
    """Switch to a user, and keep the capabilities that the daemon's threads will need.

    Blocking. Call this before creating the `Workers`, because threads that run already lose all capabilities. Raises
    SettingsError, KernelError.
    """
    keep = {"setpcap", "sys_nice", "sys_admin"} | needed_for_loading(capabilities.held()) | of_sinks
    capabilities.switch_user(user, frozenset(keep))


async def run(executor: Executor, work: Callable[[], T]) -> T:
    """Run blocking work in a thread of the executor, and return its result."""
    return await asyncio.get_running_loop().run_in_executor(executor, work)


def set_realtime_priority() -> None:
    """Give this thread a real-time priority, so that a preemptible kernel does not preempt it for ordinary threads.

    While a bpf(2) call on a map runs on a CPU, programs on kprobes and classic tracepoints do not run on that CPU.
    If another thread preempted the harvest in such a call, events on that CPU would be missed until the call ends.
    """
    with suppress(OSError):  # CAP_SYS_NICE is missing. Missed runs are counted.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(os.sched_get_priority_min(os.SCHED_FIFO)))
