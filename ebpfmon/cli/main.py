"""The entry point of the command line.

Importing the commands takes a quarter of a second. `main` prepares the process before that, so this module and the
package `ebpfmon` import only what Python has loaded already.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in; `signal` would first import enum, which takes 5 ms
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

# numpy's linear algebra starts a thread for each CPU, which costs memory. ebpfmon does not use it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status."""
    _end_at_ctrl_c()
    _keep_hangups(sys.argv[1:] if arguments is None else arguments)
    from ebpfmon import shortage
    from ebpfmon.cli import stdio

    stdio.prepare()
    try:
        shortage.raise_descriptor_limit()
        shortage.require_descriptors()
        from ebpfmon.cli import commands

        return commands.execute(arguments)
    except KeyboardInterrupt:  # asyncio brings Python's handler back when it ends
        return 130  # as a shell shows it
    except (ImportError, OSError, MemoryError, RuntimeError, BaseExceptionGroup) as error:
        if not (reason := shortage.reason(error) or _missing(error)):
            raise
        print(f"ebpfmon: {reason}", file=sys.stderr)
        return 1
    finally:
        _end_at_ctrl_c()
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGHUP])
        stdio.drain()


def program() -> NoReturn:
    """Run the command that the user typed, and end the process with its status.

    Python's own shutdown is skipped. It would wait without a limit for threads of plugins, call what they have
    registered with atexit, and destroy their objects, and no signal could end it.
    """
    status = 1
    try:
        status = main()
    except BaseException:  # a fault in ebpfmon
        sys.excepthook(*sys.exc_info())
    os._exit(status)


def _missing(error: BaseException) -> str:
    """Return that a package is missing, and how to install it. Empty for other errors, and for faults of ebpfmon."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if not package or package == "ebpfmon" or package in sys.stdlib_module_names:
        return ""
    remedy = f"install ebpfmon again, or: {sys.executable} -m pip install {package}"
    return f"the Python package of '{package}' is missing; {remedy}"


def _end_at_ctrl_c() -> None:
    """Give SIGINT its default action, which ends the process at once. Python's handler would raise KeyboardInterrupt.

    The default action also ends imports and calls of C libraries. `run` and `top` handle the signal themselves while
    they count. If the signal is ignored, as in `nohup ebpfmon run &`, it stays ignored.
    """
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def _keep_hangups(arguments: Sequence[str]) -> None:
    """Let SIGHUP wait until `run` can reload its settings. Before that, it would end the process."""
    if "run" in arguments:
        _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGHUP])


if __name__ == "__main__":
    program()
