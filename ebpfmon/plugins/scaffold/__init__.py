"""`ebpfmon plugin new`: a package to begin with, which builds, tests and runs as it is."""

from __future__ import annotations

import importlib.util
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
"""What is written, and of which template."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,19}")


def new(what: str, name: str, directory: Path) -> Iterator[str]:
    """Write a package for a new "probe" or "sink" of that name into a folder that is empty or not there; yields what to
    say of it. Raises SettingsError."""
    step, package = f"write a {what} '{name}'", f"ebpfmon_{name}"
    if not _NAME.fullmatch(name):
        raise SettingsError(f"{step}: a name has lower case letters, digits and _, 20 at most, a letter first")
    if importlib.util.find_spec(package) or name == "execs":
        raise SettingsError(f"{step}: that name is taken ('{package}'): choose another")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise SettingsError(f"{step}: '{directory}' is not an empty folder")
    words = {
        "@NAME@": name,
        "@PACKAGE@": package,
        "@CLASS@": "".join(word.capitalize() for word in name.split("_")),
        "@DISTRIBUTION@": package.replace("_", "-"),
    }
    for path, template in _FILES[what].items():
        target = directory / _filled(path, words)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_filled((_HERE / what / template).read_text(encoding="utf-8"), words), encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"{step}: '{target}': {error.strerror}") from None
        yield str(target)
    yield f"then: cd {directory}; pip install -e '.[test]'; pytest; ebpfmon run --config ebpfmon.toml"


def _filled(text: str, words: dict[str, str]) -> str:
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    return text
