"""`ebpfmon plugins`: list the plugins."""

from __future__ import annotations

import argparse

from ebpfmon import config
from ebpfmon.cli.common import (
    FAILURE,
    SUCCESS,
    Commands,
    find_plugins,
    overrides,
    print_json,
    print_lines,
    settings_options,
)
from ebpfmon.daemon import probes
from ebpfmon.errors import PluginError
from ebpfmon.plugins import registry, requirements


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    plugins = commands.add_parser(
        "plugins",
        parents=[settings_options()],
        help="list the plugins and their state",
        description=(
            "List the installed plugins: their state, where they come from, and which probes and sinks they add. As "
            "root, it loads the enabled probes for a moment. The exit status is 1 if a plugin or a probe cannot be "
            "used; its line says why."
        ),
    )
    plugins.add_argument("--json", action="store_true", help="print the list as JSON")
    plugins.set_defaults(command=_plugins)


def _plugins(args: argparse.Namespace) -> int:
    document = config.parse(args.config)
    core = document.core(overrides(args))
    discovered = find_plugins(document, core)
    enabled, off, problems = config.probe_settings(document, discovered)
    problems |= probes.problems(enabled, core)
    plugins = [registry.with_probes(plugin, off, problems) for plugin in discovered.plugins]
    plugins = [requirements.checked(plugin, discovered) for plugin in plugins]
    if args.json:
        print_json(plugins)
    else:
        print_lines(registry.render(plugins))
    for plugin in plugins:
        if why := plugin.error or next(iter(plugin.problems.values()), ""):
            if core.strict:
                raise PluginError(f"plugin '{plugin.name}' cannot be used, and strict is set: {why}")
            return FAILURE
    return SUCCESS
