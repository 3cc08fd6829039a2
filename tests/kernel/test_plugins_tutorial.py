"""The tutorial "First plugin" works: its files compile, and its tests pass in this kernel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.samples import ROOT, sample

pytestmark = pytest.mark.timeout(300)  # it compiles programs, which takes long on a busy machine
PAGE = (ROOT / "docs" / "tutorial" / "first-plugin.md").read_text()
FILES = {
    "ebpfmon_naps/naps.bpf.c": sample(PAGE, "c", "naps_counters"),
    "ebpfmon_naps/__init__.py": sample(PAGE, "python", 'name="naps"'),
    "tests/test_naps.py": sample(PAGE, "python", "import ebpfmon_naps"),
    "ebpfmon_diary/__init__.py": sample(PAGE, "python", "class Diary:"),
    "tests/test_diary.py": sample(PAGE, "python", "import ebpfmon_diary"),
}


def test_the_tests_of_the_probe_and_of_the_sink_pass(tmp_path: Path) -> None:
    for kind, name in (("probe", "naps"), ("sink", "diary")):
        run("-m", "ebpfmon", "plugin", "new", kind, name, str(tmp_path / name), where=tmp_path)
        for path, text in FILES.items():
            if name in path:
                (tmp_path / name / path).write_text(text)
    run("-m", "ebpfmon", "bpf", "build", "ebpfmon_naps/naps.bpf.c", where=tmp_path / "naps")
    for name in ("naps", "diary"):
        output = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "pythonpath=.", where=tmp_path / name)
        assert "2 passed" in output


def run(*arguments: str, where: Path) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
