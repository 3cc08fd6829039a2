"""Extract the samples of the pages for authors of plugins, as files that can be run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROBES = (ROOT / "plugins" / "README.md").read_text()
SINKS = (ROOT / "ebpfmon_sinks" / "README.md").read_text()
API = (ROOT / "docs" / "reference" / "plugin-api.md").read_text()
HEADERS = (ROOT / "docs" / "reference" / "bpf-headers.md").read_text()


def sample(page: str, language: str, containing: str) -> str:
    """Return the first sample in this language that contains this text."""
    blocks: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```", page, re.M | re.S)
    return next(text for found, text in blocks if found == language and containing in text)


FILES = {
    "hello.bpf.c": sample(PROBES, "c", "hello_counters"),
    "hello.py": sample(PROBES, "python", 'name="hello"'),
    "test_hello.py": sample(PROBES, "python", "import hello"),
    "users.bpf.c": sample(PROBES, "c", "users_counters"),
    "users.py": sample(PROBES, "python", 'name="users"'),
    "sqlite_sink.py": sample(SINKS, "python", "class Sqlite:"),
    "test_sqlite_sink.py": sample(SINKS, "python", "import sqlite_sink"),
}
"""The samples that are files, by name."""


def write(folder: Path, *names: str) -> Path:
    """Write these files into a new folder that only its owner can write to, and return the folder."""
    folder.mkdir(mode=0o755)
    for name in names:
        (folder / name).write_text(FILES[name])
        (folder / name).chmod(0o644)
    return folder
