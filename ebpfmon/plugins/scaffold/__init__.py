"""Write the package of a new plugin, for `ebpfmon plugin new`. It builds, passes its tests and runs as it is."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ebpfmon.errors import SettingsError

_HERE = Path(__file__).parent
_FILES = {
    "probe": {
        "pyproject.toml": "pyproject.toml.in",
        "hatch_build.py": "hatch_build.py.in",
        "README.md": "README.md.in",
        "ebpfmon.toml": "ebpfmon.toml.in",
        "@PACKAGE@/__init__.py": "plugin.py.in",
        "@PACKAGE@/@NAME@.bpf.c": "probe.bpf.c.in",
        "tests/conftest.py": "conftest.py.in",
        "tests/test_@NAME@.py": "test.py.in",
    },
    "sink": {
        "pyproject.toml": "pyproject.toml.in",
        "README.md": "README.md.in",
        "ebpfmon.toml": "ebpfmon.toml.in",
        "@PACKAGE@/__init__.py": "plugin.py.in",
        "tests/test_@NAME@.py": "test.py.in",
    },
}
"""The files of each kind of package, and the template of each file."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,19}")


def new(kind: str, name: str, directory: Path) -> Iterator[str]:
    """Write a package into a directory, and yield the lines to print: the files written and the next commands.

    `kind` is "probe" or "sink". The directory must be empty or not exist. Raises SettingsError.
    """
    step, package = f"cannot write the {kind} '{name}'", f"ebpfmon_{name}"
    if not _NAME.fullmatch(name):
        raise SettingsError(f"{step}: a name has at most 20 lower-case letters, digits and _, and begins with a letter")
    if importlib.util.find_spec(package) or name == "execs":
        raise SettingsError(f"{step}: the name is taken ('{package}'); choose another")
    if not _is_free(directory, step):
        raise SettingsError(f"{step}: '{directory}' is not an empty directory")
    placeholders = {
        "@NAME@": name,
        "@PACKAGE@": package,
        "@CLASS@": "".join(word.capitalize() for word in name.split("_")),
        "@DISTRIBUTION@": package.replace("_", "-"),
    }
    for path, template in _FILES[kind].items():
        target = directory / _filled(path, placeholders)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            text = (_HERE / kind / template).read_text(encoding="utf-8")
            target.write_text(_filled(text, placeholders), encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"{step}: '{target}': {error.strerror}") from None
        yield str(target)
    yield f"then: cd {directory}; pip install -e '.[test]'; pytest; ebpfmon run --config ebpfmon.toml"


def _is_free(directory: Path, step: str) -> bool:
    """Return whether there is nothing at a path, or an empty directory. Raises SettingsError."""
    try:
        return not os.path.lexists(directory) or (os.path.isdir(directory) and not os.listdir(directory))
    except OSError as error:
        raise SettingsError(f"{step}: '{directory}': {error.strerror}") from None


def _filled(text: str, placeholders: dict[str, str]) -> str:
    for placeholder, value in placeholders.items():
        text = text.replace(placeholder, value)
    return text
