"""`ebpfmon config`: show or check the settings."""

from __future__ import annotations

import argparse

from ebpfmon import config
from ebpfmon.cli.common import (
    SUCCESS,
    Commands,
    add_actions,
    check_settings,
    overrides,
    print_lines,
    read_settings,
    settings_options,
)
from ebpfmon.daemon.probes import enabled_probes
from ebpfmon.daemon.run import read_groups


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    actions = add_actions(
        commands, "config", help="show or check the settings", description="Show or check the settings."
    )
    show = actions.add_parser(
        "show",
        parents=[settings_options()],
        help="print all settings, defaults included",
        description="Print all settings, defaults included, as a settings file (TOML).",
    )
    show.set_defaults(command=_show)
    check = actions.add_parser(
        "check",
        parents=[settings_options()],
        help="check the settings file",
        description=(
            "Check the settings file and what it needs on this machine, without loading anything into the kernel. The "
            "first error is printed, and the exit status is then 2. Warnings say what has no effect, and how to "
            "replace outdated sections."
        ),
    )
    check.set_defaults(command=_check)


def _show(args: argparse.Namespace) -> int:
    from ebpfmon.config.writing import to_toml  # the daemon does not need it

    print(to_toml(read_settings(args)[0]), end="")
    return SUCCESS


def _check(args: argparse.Namespace) -> int:
    document = config.parse(args.config)
    settings, plugins = check_settings(document, overrides(args))
    config.check_machine(settings, document.source)
    # Check what else `run` checks before it loads anything: the lines of the groups file, and the probes' set-ups.
    read_groups(settings.groups)
    for _, options in enabled_probes(settings, plugins):
        options.setup.close()
    state = "OK" if document.exists else "no such file; the defaults are used"
    print_lines([f"{document.source}: {state}", *document.upgrade_hints])
    return SUCCESS
