"""The wheel's build hook: compiles every `*.bpf.c` for every architecture, into its package."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileBpf(BuildHookInterface):  # type: ignore[type-arg]  # hatchling's own annotation is for its builders
    """Runs `ebpfmon/kernel/compiler.py`, which needs nothing but clang and libbpf's headers."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        compiler = runpy.run_path(str(Path(self.root) / "ebpfmon" / "kernel" / "compiler.py"))
        compiler["compile_all"](Path(self.root))
