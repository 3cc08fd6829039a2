"""The command line: arguments, environment and exit statuses live here alone.

Exit status: 0 done; 1 the kernel or a plugin refused; 2 wrong settings or arguments. `check` has its own: 0 every
event can be seen, 1 some cannot, 2 none can. `reset` ends with 1 if something could not be removed.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import sys
import sysconfig
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

# numpy's linear algebra starts a thread for each CPU, with its memory; nothing here uses it
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from ebpfmon.cli import lean

lean.import_asyncio()  # before anything else does

import asyncio

import msgspec

from ebpfmon import __version__
from ebpfmon.cli.messages import JournalFormatter, for_journal, is_journal
from ebpfmon.config import settings as config
from ebpfmon.daemon import run as daemon
from ebpfmon.daemon.notify import Notifier
from ebpfmon.errors import EbpfmonError, KernelError, PluginError, SettingsError
from ebpfmon.kernel import features, kprobe_events
from ebpfmon.model.everything import Loader, LoadMode, Strategy
from ebpfmon.plugins import registry
from ebpfmon.top.state import COLUMNS, DEFAULT_SORT, State

DONE, FAILED, WRONG = 0, 1, 2
STDERR = 2
T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    try:
        status = _main(arguments)
        sys.stdout.flush()  # here, where a reader that has gone is no failure
    except SettingsError as error:
        return _complain(error, WRONG)
    except EbpfmonError as error:
        return _complain(error, FAILED)
    except BrokenPipeError:  # `ebpfmon check | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    return status


def _main(arguments: Sequence[str] | None) -> int:
    try:
        given = _parser().parse_args(arguments)
    except SystemExit as end:  # --help, --version, wrong arguments
        return int(end.code or 0)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JournalFormatter() if _in_journal() else logging.Formatter("ebpfmon: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    status: int = given.command(given)
    return status


def _complain(error: EbpfmonError, status: int) -> int:
    print(for_journal(str(error), logging.ERROR) if _in_journal() else f"ebpfmon: {error}", file=sys.stderr)
    return status


def _in_journal() -> bool:
    """Whether stderr is the journal: then each line has its priority in front."""
    return is_journal(STDERR, os.environ.get("JOURNAL_STREAM", ""))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ebpfmon", description="Watches with eBPF what processes do in the kernel, every second."
    )
    parser.add_argument("--version", action="version", version=f"ebpfmon {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument("--config", type=Path, metavar="FILE", help=f"settings (default: {config.DEFAULT_PATH})")
    settings.add_argument(
        "--strict", action="store_true", default=None, help="stop if any plugin or probe cannot be used"
    )
    core = argparse.ArgumentParser(add_help=False, parents=[settings])
    core.add_argument("--load-mode", choices=[*LoadMode], help="entry: calls and bytes; return: errors too")
    core.add_argument("--attach", choices=["auto", *Strategy], help="how events are seen (default: the best way)")
    core.add_argument("--loader", choices=["auto", *Loader], help="libbpf (core), or BCC where the kernel has no BTF")

    run = commands.add_parser("run", parents=[core], help="watch, until stopped")
    run.add_argument("--for", type=_seconds, dest="for_s", metavar="SECONDS", help="stop after that long")
    run.add_argument("--json", action="store_true", help="write each snapshot as a line of JSON on stdout")
    run.add_argument("--interval", type=int, metavar="SECONDS", help="seconds between snapshots (default: 1)")
    run.set_defaults(command=_run)

    check = commands.add_parser("check", parents=[core], help="say what this kernel allows, and what is taken of it")
    check.add_argument("--json", action="store_true", help="as JSON")
    check.set_defaults(command=_check)

    top = commands.add_parser("top", parents=[core], help="show what each process, or application, does in a second")
    top.add_argument("--once", action="store_true", help="show one second, and end")
    top.add_argument("--json", action="store_true", help="with --once: as JSON")
    top.add_argument("--by", choices=config.BY, help="what groups are (default: as the settings say)")
    top.add_argument("--groups", action="store_true", help="show groups instead of processes")
    top.add_argument("--sort", choices=_sortable(), default=DEFAULT_SORT, metavar="COLUMN", help="one of %(choices)s")
    top.add_argument("--filter", default="", metavar="TEXT", help="what has it in its command or group, or as its PID")
    top.add_argument("--lines", type=int, default=20, metavar="N", help="with --once: so many at most (default: 20)")
    top.set_defaults(command=_top)

    reset = commands.add_parser("reset", help="remove kprobes that ebpfmon or an old Netdata left in the kernel")
    reset.add_argument("--dry-run", action="store_true", help="only show them")
    reset.set_defaults(command=_reset)

    of_config = commands.add_parser("config", help="look at the settings")
    actions = of_config.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("show", parents=[settings], help="all settings, with the defaults").set_defaults(
        command=_config_show
    )
    actions.add_parser("check", parents=[settings], help="whether they are right").set_defaults(command=_config_check)

    install = commands.add_parser("install", help="let systemd run ebpfmon, or Netdata show what it sees")
    install.add_argument("what", metavar="PROGRAM", help="systemd, netdata, or what another package brings")
    install.add_argument("--dry-run", action="store_true", help="only say what would be done")
    install.add_argument("--prefix", type=Path, default=Path("/"), metavar="DIR", help="write below DIR (default: /)")
    install.add_argument("--directory", type=Path, metavar="DIR", help="netdata: where it has its plugins")
    install.set_defaults(command=_install)

    plugins = commands.add_parser("plugins", parents=[settings], help="the plugins, and what became of each")
    plugins.add_argument("--json", action="store_true", help="as JSON")
    plugins.set_defaults(command=_plugins)
    _add_author_commands(commands)
    return parser


def _add_author_commands(commands: Any) -> None:
    """What those need who write plugins."""
    plugin = commands.add_parser("plugin", help="write a plugin").add_subparsers(required=True, metavar="ACTION")
    new = plugin.add_parser("new", help="a package that builds, tests and runs at once")
    new.add_argument("what", choices=["probe", "sink"], help="what it is to bring")
    new.add_argument("name", metavar="NAME", help="how settings and messages call it: lower case, digits and _")
    new.add_argument("directory", metavar="DIRECTORY", nargs="?", type=Path, help="default: ebpfmon_NAME")
    new.set_defaults(command=_plugin_new)

    bpf = commands.add_parser("bpf", help="compile BPF programs").add_subparsers(required=True, metavar="ACTION")
    build = bpf.add_parser("build", help="for x86-64, aarch64 and BCC, with the kit's headers")
    build.add_argument("sources", metavar="FILE", nargs="+", type=Path, help="NAME.bpf.c")
    build.add_argument("-o", "--output", metavar="DIR", type=Path, help="default: objects, beside each FILE")
    build.set_defaults(command=_bpf_build)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds above 0")
    return seconds


def _known(given: argparse.Namespace, *, json: bool = False) -> tuple[config.Settings, registry.Registry]:
    """The settings and the plugins. The file is read once: which plugins there are, it says itself."""
    document, command_line = config.parse(given.config), _command_line(given, json)
    found = _discover(document, command_line)
    return config.check(document.raw, document.source, found, command_line), found


def _command_line(given: argparse.Namespace, json: bool = False) -> config.CommandLine:
    names = ("interval", "load_mode", "attach", "loader", "strict")
    core: dict[str, Any] = {n: getattr(given, n) for n in names if getattr(given, n, None) is not None}
    return config.CommandLine(core, json)


def _discover(document: config.Document, command_line: config.CommandLine) -> registry.Registry:
    core = document.core(command_line)
    found = registry.discover(wanted=core.plugins)
    for plugin in found.left_out:
        if core.strict:
            raise PluginError(f"plugin '{plugin.name}' cannot be used, and strict is set: {plugin.error}")
        logging.warning("plugin '%s' is left out: %s", plugin.name, plugin.error)
    for name in core.disabled_plugins:
        if name not in {plugin.name for plugin in found.disabled}:
            logging.warning("%s: ebpfmon.disabled_plugins: there is no plugin '%s'", document.source, name)
    return found


def _run(given: argparse.Namespace) -> int:
    settings, found = _known(given, json=given.json)

    def read() -> config.Settings:
        changed = config.read(given.config, found, _command_line(given, given.json))
        if changed.ebpfmon.plugins != settings.ebpfmon.plugins:
            logging.warning("the plugins stay as they are until ebpfmon is started again")
        return changed

    async def work(stop: asyncio.Event) -> None:
        asked = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
        await daemon.run(settings, found, stop, again=daemon.Again(asked, read), notifier=_notifier())

    asyncio.run(_until_stopped(work, given.for_s))
    return DONE


def _notifier() -> Notifier:
    """For the service manager, if one has started us."""
    watched = os.environ.get("WATCHDOG_USEC", "")
    ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    watchdog_s = int(watched) / 1e6 if watched.isdecimal() and ours else None
    return Notifier(os.environ.get("NOTIFY_SOCKET"), watchdog_s)


async def _until_stopped(work: Callable[[asyncio.Event], Awaitable[T]], for_s: float | None = None) -> T:
    """What `work` returns; the event that it is given is set by a signal, or after so many seconds.

    Where its tasks fail with errors of ebpfmon alone, the first of them is raised.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    timer = loop.call_later(for_s, stop.set) if for_s else None
    try:
        return await work(stop)
    except BaseExceptionGroup as group:  # not except*: what it raises, Python 3.11.2 wraps again
        ours, others = group.split(EbpfmonError)
        if others or not ours:
            raise
        raise _first(ours) from None
    finally:
        if timer:
            timer.cancel()


def _first(group: BaseExceptionGroup[EbpfmonError]) -> EbpfmonError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, EbpfmonError)
    return error


def _sortable() -> list[str]:
    return list(dict.fromkeys(column.key for columns in COLUMNS.values() for column in columns))


def _top(given: argparse.Namespace) -> int:
    from ebpfmon.top import session, view  # the daemon need not keep them in memory

    if given.json and not given.once:
        raise SettingsError("top: --json is for --once; ebpfmon run --json goes on")
    logging.getLogger().setLevel(logging.WARNING if given.once else logging.ERROR)  # a line would spoil the screen
    settings, found = _known(given)
    state = State(
        by=given.by or settings.apps.by, mode="groups" if given.groups else "processes", sort=given.sort,
        filter=given.filter,
    )  # fmt: skip
    if not given.once:
        term = os.environ.get("TERM", "")
        asyncio.run(_until_stopped(lambda stop: session.live(settings, found, state, term, stop)))
        return DONE
    errors = settings.ebpfmon.load_mode is LoadMode.RETURN
    snapshot = asyncio.run(_until_stopped(lambda stop: session.one_second(settings, found, state.by, stop)))
    if given.json:
        shown = view.to_json(snapshot, state, top=given.lines, errors=errors)
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(shown)) + b"\n")
    else:
        width = shutil.get_terminal_size().columns
        print("\n".join(view.render(snapshot, state, width, None, errors=errors, top=given.lines)))
    return DONE


def _check(given: argparse.Namespace) -> int:
    from ebpfmon.check import report  # the daemon need not keep it in memory

    verdict = report.check(*_known(given))
    if given.json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(verdict)) + b"\n")
    else:
        print("\n".join(report.render(verdict)))
    return verdict.status


def _reset(given: argparse.Namespace) -> int:
    found = features.look()
    if found.kprobes and not found.tracefs:
        raise KernelError("look for kprobes: tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing")
    ours = [e for e in kprobe_events.entries(found.tracefs) if kprobe_events.ours(e)] if found.tracefs else []
    left = [e for e in ours if not kprobe_events.in_use(e)]
    for entry in ours:
        print(f"left behind: {entry}" if entry in left else f"in use by ebpfmon {entry.owner}: {entry}")
    if not left:
        print("nothing was left" if found.kprobes else "this kernel has no kprobes, so nothing can be left")
    if given.dry_run or not found.tracefs:
        return DONE
    status = DONE
    for entry in left:
        try:
            kprobe_events.remove(found.tracefs, entry)
        except KernelError as error:
            status = _complain(error, FAILED)
        else:
            print(f"removed {entry}")
    return status


def _config_show(given: argparse.Namespace) -> int:
    print("\n".join(config.to_toml(_known(given)[0])))
    return DONE


def _config_check(given: argparse.Namespace) -> int:
    _known(given)
    path = given.config or config.DEFAULT_PATH
    print(f"{path}: right" if path.exists() else f"{path}: not there, the defaults hold")
    return DONE


def _install(given: argparse.Namespace) -> int:
    from ebpfmon.install import systemd as install  # the daemon need not keep it in memory

    if given.what != "systemd":
        install.installer(given.what)(given.prefix, given.directory, dry_run=given.dry_run)
        return DONE
    if given.directory:
        raise SettingsError("install systemd: it needs no --directory")
    called = shutil.which(sys.argv[0]) or ""
    if os.path.basename(called) != "ebpfmon":  # python -m ebpfmon
        called = os.path.join(sysconfig.get_path("scripts"), "ebpfmon")
    print("\n".join(install.install_systemd(given.prefix, os.path.abspath(called), given.dry_run)))
    return DONE


def _plugins(given: argparse.Namespace) -> int:
    found = registry.discover(wanted=config.parse(given.config).core(_command_line(given)).plugins)
    if given.json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(found.plugins)) + b"\n")
    else:
        print("\n".join(registry.render(found.plugins)))
    return FAILED if found.left_out else DONE


def _plugin_new(given: argparse.Namespace) -> int:
    from ebpfmon.plugins import scaffold

    print("\n".join(scaffold.new(given.what, given.name, given.directory or Path(f"ebpfmon_{given.name}"))))
    return DONE


def _bpf_build(given: argparse.Namespace) -> int:
    from ebpfmon.plugins import build as kit

    for path in kit.build(given.sources, given.output):
        print(path)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
