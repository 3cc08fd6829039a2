"""Samples out of the authors' pages, as files that can be run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROBES = (ROOT / "plugins" / "README.md").read_text()
SINKS = (ROOT / "ebpfmon_sinks" / "README.md").read_text()
API = (ROOT / "docs" / "reference" / "plugin-api.md").read_text()
HEADERS = (ROOT / "docs" / "reference" / "bpf-headers.md").read_text()


def sample(page: str, language: str, about: str) -> str:
    """The first sample of a language that has these words."""
    blocks: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```", page, re.M | re.S)
    return next(text for found, text in blocks if found == language and about in text)


FILES = {
    "hello.bpf.c": sample(PROBES, "c", "hello_counters"),
    "hello.py": sample(PROBES, "python", 'name="hello"'),
    "test_hello.py": sample(PROBES, "python", "import hello"),
    "users.bpf.c": sample(PROBES, "c", "users_counters"),
    "users.py": sample(PROBES, "python", 'name="users"'),
    "sqlite_sink.py": sample(SINKS, "python", "class Sqlite:"),
    "test_sqlite_sink.py": sample(SINKS, "python", "import sqlite_sink"),
}
"""All samples that are files, by their names."""


def write(folder: Path, *names: str) -> Path:
    """Write some of them into a folder where nobody else may write."""
    folder.mkdir(mode=0o755)
    for name in names:
        (folder / name).write_text(FILES[name])
        (folder / name).chmod(0o644)
    return folder
