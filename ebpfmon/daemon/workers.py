"""The daemon's threads, and the capabilities that each of them keeps once everything is attached.

The kernel keeps capabilities for each thread. The event loop needs none but those that a sink asks for. A thread that
only loads programs, when settings are read again, keeps what loading needs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TypeVar

from ebpfmon.kernel import capabilities

T = TypeVar("T")
_PTRACE = "sys_ptrace"  # /proc/PID/exe and /proc/PID/ns/net of others
_LOADING = frozenset({"bpf", "perfmon"})
_OPENING = frozenset({"chown", "dac_override", "dac_read_search", "fowner", "net_bind_service"})


def of_loading(held: frozenset[str]) -> frozenset[str]:
    """Return the capabilities that loading needs: CAP_SYS_ADMIN only if the two that were split from it are missing."""
    return (_LOADING if held >= _LOADING else _LOADING | {"sys_admin"}) | {_PTRACE}


class Workers:
    """One thread for each kind of work that blocks. Until they drop privileges they have all the capabilities there
    are.

    To be made on the running event loop.
    """

    def __init__(self, stack: ExitStack) -> None:
        """`stack` ends the threads."""
        self.harvest = stack.enter_context(ThreadPoolExecutor(1, "harvest"))
        self.lookup = stack.enter_context(ThreadPoolExecutor(1, "lookup"))
        self.loading = stack.enter_context(ThreadPoolExecutor(1, "loading"))
        self._opening = stack.enter_context(ThreadPoolExecutor(4, "opening"))
        asyncio.get_running_loop().set_default_executor(self._opening)

    def become(self, user: str, of_sinks: frozenset[str]) -> None:
        """Become an ordinary user with the capabilities that the threads will need. Blocking; call it before any of
        them has begun. Raises SettingsError, KernelError."""
        keep = {"setpcap", "sys_nice", "sys_admin"} | of_loading(capabilities.held()) | of_sinks
        capabilities.become(user, frozenset(keep))

    async def drop_privileges(self, dry_run: Callable[[], object]) -> None:
        """Let each thread drop what its work does not need, and the event loop what opening a sink does not.

        `dry_run` does what a harvest does, and raises KernelError where it may not. Raises KernelError.
        """

        def reads() -> bool:
            dry_run()
            return True

        await run(self.harvest, lambda: capabilities.drop(capabilities.needed(reads)))
        await run(self.lookup, lambda: capabilities.drop(frozenset({_PTRACE})))
        await run(self.loading, lambda: capabilities.drop(of_loading(capabilities.held())))
        capabilities.drop(_OPENING)

    def drop_event_loop_privileges(self, of_sinks: frozenset[str]) -> None:
        """Let the event loop's thread, and those that it starts from now on, keep these capabilities alone."""
        capabilities.drop(of_sinks)
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))
        self._opening.shutdown(wait=False)  # its threads have more: they end when they have nothing left to do


async def run(executor: Executor, work: Callable[[], T]) -> T:
    """Do blocking work in a thread of the executor, and return what it returns."""
    return await asyncio.get_running_loop().run_in_executor(executor, work)


def never_preempted() -> None:
    """Keep this thread from being preempted, on a kernel that preempts itself.

    No kprobe's and no classic tracepoint's program runs on a CPU where a bpf(2) call on a map is under way, so calls
    would be missed for as long as a preempted harvester waits.
    """
    with suppress(OSError):  # without CAP_SYS_NICE: what is missed then is counted
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(os.sched_get_priority_min(os.SCHED_FIFO)))
