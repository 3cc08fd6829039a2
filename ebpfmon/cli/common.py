"""Helpers that several commands share: exit statuses, options, reading the settings, printing JSON."""

from __future__ import annotations

import argparse
import io
import logging
import sys
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

import msgspec

from ebpfmon import config
from ebpfmon.config import CommandLine, Core, Document, Settings
from ebpfmon.errors import PluginError, SettingsError
from ebpfmon.files import create_regular
from ebpfmon.kernel import attach_methods, bpfobject
from ebpfmon.model import Loader, LoadMode, encode_json
from ebpfmon.plugins import registry
from ebpfmon.plugins.registry import Registry
from ebpfmon.text import escaped

SUCCESS, FAILURE, USAGE_ERROR, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses. FAILURE: the kernel or a plugin failed. USAGE_ERROR: the settings or arguments are wrong.

INTERRUPTED: a signal ended the command before it had a result; shells show Ctrl-C as this number.
"""


class Commands(Protocol):
    """The result of `ArgumentParser.add_subparsers`. Each command adds its parser to it."""

    def add_parser(
        self,
        name: str,
        *,
        parents: Sequence[argparse.ArgumentParser] = (),
        help: str,
        description: str,
        epilog: str | None = None,
    ) -> argparse.ArgumentParser:
        """Add a command and return the parser of its options."""


class Parser(argparse.ArgumentParser):
    """A parser that wraps each paragraph of the description, and prints the epilog without changes."""

    def __init__(self, *, description: str | None = None, **kwargs: Any) -> None:
        if description:
            description = "\n".join(textwrap.fill(paragraph, 79) for paragraph in description.splitlines())
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(description=description, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Print the usage and the error, which may contain an argument of any text, and exit."""
        with suppress(OSError):  # stderr may be full, which argparse does not expect before Python 3.12
            self.print_usage(sys.stderr)
            print(f"{self.prog}: error: {escaped(message)}", file=sys.stderr)
        raise SystemExit(USAGE_ERROR)

    def parse_known_args(  # type: ignore[override]  # the overloads of argparse
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse arguments. An unknown one is an error of this command, so its usage is shown, not that of `ebpfmon`."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, []


def add_actions(commands: Commands, name: str, *, help: str, description: str) -> Commands:
    """Add a command with actions, such as `config show`, and return the object that each action is added to."""
    parser = commands.add_parser(name, help=help, description=description)
    return parser.add_subparsers(required=True, metavar="ACTION", title="actions")


def settings_options() -> argparse.ArgumentParser:
    """Return a parent parser with the options of every command that reads the settings."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--config", type=Path, metavar="FILE", help=f"settings file (default: {config.DEFAULT_PATH})")
    options.add_argument(
        "--strict",
        action="store_true",
        default=None,
        help="fail if a plugin or probe cannot be used, instead of leaving it out",
    )
    return options


def core_options() -> argparse.ArgumentParser:
    """Return a parent parser with the options of every command that loads programs into the kernel."""
    options = argparse.ArgumentParser(add_help=False, parents=[settings_options()])
    options.add_argument(
        "--load-mode",
        choices=[*map(str, LoadMode)],
        help="entry: count calls and bytes; return: also count which calls failed",
    )
    options.add_argument(
        "--attach", choices=["auto", *attach_methods.NAMES],
        help="attach every required event by this method, or fail; auto: by the best method for each event",
    )  # fmt: skip
    options.add_argument(
        "--loader", choices=["auto", *map(str, Loader)],
        help="core: load compiled programs with libbpf; bcc: compile with BCC; auto: bcc if the kernel has no BTF",
    )  # fmt: skip
    options.add_argument(
        "--verifier-log",
        type=Path,
        metavar="FILE",
        help="write to FILE the kernel verifier's whole log for each program that it rejects",
    )
    return options


class _VerifierLog(logging.FileHandler):
    """Writes the verifier's log to a regular file."""

    def _open(self) -> io.TextIOWrapper:
        return cast("io.TextIOWrapper", create_regular(self.baseFilename))

    def handleError(self, record: logging.LogRecord) -> None:
        """Log that the file cannot be written. By default a traceback would be printed."""
        logging.warning("cannot write the verifier's log to '%s': %s", self.baseFilename, sys.exc_info()[1])


def open_verifier_log(path: Path) -> None:
    """Write the verifier's log of each rejected program to a file from now on. Raises SettingsError."""
    try:
        handler = _VerifierLog(path)
    except OSError as error:
        raise SettingsError(f"--verifier-log: cannot write '{path}': {error.strerror}") from None
    logger = logging.getLogger(bpfobject.VERIFIER)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(handler)


def read_settings(args: argparse.Namespace, *, json: bool = False) -> tuple[Settings, Registry]:
    """Return the validated settings and the plugins that they use."""
    return check_settings(config.parse(args.config), overrides(args, json))


def check_settings(document: Document, command_line: CommandLine) -> tuple[Settings, Registry]:
    """Return the settings of a parsed file and the plugins that they use."""
    plugins = _discover(document, command_line)
    settings = config.validate(document.raw, document.source, plugins, command_line)
    config.check(settings, plugins, document.source)
    return settings, plugins


def overrides(args: argparse.Namespace, json: bool = False) -> CommandLine:
    """Return the settings that the command line overrides."""
    names = ("interval", "load_mode", "attach", "loader", "strict")
    core: dict[str, Any] = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    return CommandLine(core, json)


def print_json(value: object) -> None:
    """Write a value to stdout as indented JSON."""
    sys.stdout.buffer.write(msgspec.json.format(encode_json(value)) + b"\n")


def print_lines(lines: Iterable[str]) -> None:
    """Write lines to stdout, with unprintable characters escaped."""
    for line in lines:
        print(escaped(line))


def find_plugins(document: Document, core: Core) -> Registry:
    """Return all plugins. Raises PluginError or SettingsError, which names the file, if plugins_dir cannot be used."""
    try:
        return registry.discover(options=core.plugins)
    except (PluginError, SettingsError) as error:
        raise type(error)(f"{document.source}: {error}") from None


def _discover(document: Document, command_line: CommandLine) -> Registry:
    core = document.core(command_line)
    plugins = find_plugins(document, core)
    for plugin in plugins.left_out:
        if core.strict:
            raise PluginError(f"plugin '{plugin.name}' cannot be used, and strict is set: {plugin.error}")
        logging.warning("plugin '%s' is left out: %s", plugin.name, plugin.error)
    for name in core.disabled_plugins:
        if name not in {plugin.name for plugin in plugins.disabled}:
            logging.warning("%s: ebpfmon.disabled_plugins: no plugin is called '%s'", document.source, name)
    return plugins
