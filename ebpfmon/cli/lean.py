"""asyncio without OpenSSL, until somebody speaks TLS: `import ssl` takes 4 MB, a tenth of the daemon."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


def import_asyncio() -> None:
    """Import asyncio as on a Python that has no `ssl`, which it allows for. Whoever imports that later, a sink or what
    it uses, gets it as ever, and from then on asyncio has it too. Does nothing where either is imported already."""
    if "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment]  # which is how an import is made to fail
    try:
        importlib.import_module("asyncio")
    finally:
        del sys.modules["ssl"]
    sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds `ssl` where it is, once."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "ssl":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec and spec.loader:
            load = spec.loader.exec_module

            def load_and_tell(module: ModuleType) -> None:
                load(module)
                _tell_asyncio(module)

            spec.loader.exec_module = load_and_tell  # type: ignore[method-assign]
        return spec


def _tell_asyncio(ssl: ModuleType) -> None:
    """Each of its modules that wanted it gets it; the one that makes classes of it is run again."""
    for name, module in list(sys.modules.items()):
        if name.startswith("asyncio.") and getattr(module, "ssl", ssl) is None:
            module.ssl = ssl  # type: ignore[attr-defined]
    importlib.reload(sys.modules["asyncio.sslproto"])
