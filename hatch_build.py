"""The wheel's build hook, which compiles every `*.bpf.c` file for every architecture."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileBpf(BuildHookInterface):  # type: ignore[type-arg]  # hatchling annotates the parameter for its own builders only
    """Compile with `ebpfmon/kernel/compiler.py`, which needs only clang and libbpf's headers."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the programs before hatchling collects the files."""
        compiler = runpy.run_path(str(Path(self.root) / "ebpfmon" / "kernel" / "compiler.py"))
        compiler["compile_all"](Path(self.root))
