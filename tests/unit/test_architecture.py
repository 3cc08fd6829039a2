"""The rules of the architecture, read from the source."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ebpfmon

ROOT = Path(__file__).parents[2]
CORE = {
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
    for p in sorted((ROOT / "ebpfmon").rglob("*.py"))
}
OUTSIDE = sorted(p for top in ("ebpfmon_sinks", "plugins") for p in (ROOT / top).rglob("*.py"))
ENGINES = {f"ebpfmon.pipeline.{name}" for name in ("aggregate", "gauges", "selection", "top_k")}
STAGES = (
    {n for n in CORE if n.startswith("ebpfmon.pipeline.")}
    - ENGINES
    - {
        "ebpfmon.pipeline.pipeline",
        "ebpfmon.pipeline.schedule",
    }
)
PARTS = {p.name for p in (ROOT / "ebpfmon").iterdir() if p.is_dir()} - {"__pycache__"}


def imports(path: Path) -> set[tuple[str, str]]:
    """Return (module, name) of every import in a file, at any level. The name of a whole module is ""."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: use absolute imports only"
            whole = {a.name for a in node.names if f"{node.module}.{a.name}" in CORE}
            found |= {(f"{node.module}.{n}", "") for n in whole}
            found |= {(node.module or "", a.name) for a in node.names if a.name not in whole}
    return found


def core_imports(path: Path) -> set[str]:
    """Return the modules of ebpfmon that a file imports."""
    return {module for module, _ in imports(path) if module in CORE}


def uses(path: Path, *attributes: tuple[str, str]) -> bool:
    """Return whether a file uses `module.attribute`, or imports the attribute by name."""
    nodes = ast.walk(ast.parse(path.read_text()))
    dotted = {(n.value.id, n.attr) for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}
    return bool((dotted | imports(path)) & set(attributes))


def test_the_rules_apply_to_existing_modules() -> None:
    assert {"ebpfmon.pipeline.account", "ebpfmon.pipeline.publish", "ebpfmon.pipeline.harvest"} <= STAGES
    assert CORE.keys() >= ENGINES
    assert len(OUTSIDE) >= 3


def pipeline_imports(path: Path) -> set[str]:
    """Return the modules of the pipeline that a file imports."""
    return {name for name in core_imports(path) if name.startswith("ebpfmon.pipeline.")}


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_imports_only_the_model_and_the_engines(stage: str) -> None:
    path = CORE[stage]
    assert pipeline_imports(path) <= ENGINES | {"ebpfmon.pipeline.schedule"}
    of_schedule = {n for m, n in imports(path) if m == "ebpfmon.pipeline.schedule"}
    assert of_schedule <= {"Clock", "TimeInterval", "TOLERANCE_S"}, "only the daemon may create ticks"
    rest = {
        n for n in core_imports(path) - pipeline_imports(path) if not re.match(r"ebpfmon\.(model|errors|text)\b", n)
    }
    assert {n for n in rest if not n.startswith("ebpfmon.grouping.")} == set()
    assert not rest or stage == "ebpfmon.pipeline.attribute", "only attribution may import groupings"


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_an_engine_imports_only_the_model_and_other_engines(engine: str) -> None:
    path = CORE[engine]
    assert pipeline_imports(path) <= ENGINES
    assert {n for n in core_imports(path) - pipeline_imports(path) if not n.startswith("ebpfmon.model")} == set()


def test_only_the_pipeline_knows_all_the_stages() -> None:
    stages = STAGES - {"ebpfmon.pipeline.publish", "ebpfmon.pipeline.harvest", "ebpfmon.pipeline.self_metrics"}
    assert core_imports(CORE["ebpfmon.pipeline.pipeline"]) >= STAGES
    assert {n for n, path in CORE.items() if core_imports(path) & stages} == {"ebpfmon.pipeline.pipeline"}


@pytest.mark.parametrize("part", ["model", "kernel", "grouping", "pipeline", "plugins", "config", "top"])
def test_data_flows_in_one_direction(part: str) -> None:
    """Each part of the core imports only the parts listed here."""
    may = {
        "model": set[str](),
        "kernel": {"model"},
        "grouping": {"model", "kernel"},
        "pipeline": {"model", "grouping"},
        "plugins": {"model", "kernel"},
        "config": {"model", "plugins", "grouping", "pipeline", "kernel"},  # the names of attach methods
        "top": {"model", "config", "grouping", "pipeline", "daemon", "plugins"},
    }[part]
    found = {
        name.split(".")[1]
        for module, path in CORE.items()
        if module.split(".")[1:2] == [part]
        for name in core_imports(path)
        if name.count(".") and name.split(".")[1] in PARTS
    }
    assert found - may - {part} == set()


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda p: str(p.relative_to(ROOT)))
def test_plugins_and_sinks_import_only_the_public_api(path: Path) -> None:
    own = path.relative_to(ROOT / "plugins").parts[0] if "plugins" in path.parts else "ebpfmon_sinks"
    ours = {m for m, _ in imports(path) if m.startswith("ebpfmon")}
    assert {m for m in ours if m.partition(".")[0] != own} <= {"ebpfmon"}
    assert {n for m, n in imports(path) if m == "ebpfmon"} <= set(ebpfmon.__all__)
    # They must not reach private modules through attributes either, or through dynamic imports.
    tree = ast.parse(path.read_text())
    reached = {a for m, a in attributes(tree) if m == "ebpfmon"}
    assert reached <= set(ebpfmon.__all__)
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and called(n) in DYNAMIC]
    assert [ast.unparse(c) for c in calls if not of_own_package(c, own)] == []
    assert not {m for m, _ in imports(path)} & {"runpy", "pkgutil", "imp"}
    assert ("sys", "modules") not in attributes(tree)


DYNAMIC = {
    "import_module", "__import__", "exec", "eval", "compile", "find_spec", "load_module", "exec_module",
    "module_from_spec", "spec_from_file_location",
}  # fmt: skip
"""Functions that import a module by name, or that run code."""


def attributes(tree: ast.AST) -> set[tuple[str, str]]:
    """Return every `name.attribute` in the tree as (name, attribute)."""
    nodes = ast.walk(tree)
    return {(n.value.id, n.attr) for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}


def called(call: ast.Call) -> str:
    """Return the name of the called function, or an empty string for functions of `re`."""
    of = call.func
    if isinstance(of, ast.Attribute):
        return "" if isinstance(of.value, ast.Name) and of.value.id == "re" else of.attr
    return of.id if isinstance(of, ast.Name) else ""


def of_own_package(call: ast.Call, own: str) -> bool:
    """Return whether the dynamically imported module is in the importer's own package."""
    if not call.args:
        return False
    name = ast.unparse(call.args[0]).lstrip("f").strip("'\"")
    return name.startswith(f"{own}.")


GUARDED = """
import importlib, importlib.abc, importlib.metadata, sys
import ebpfmon
from ebpfmon.plugins import validate  # This imports pluggy's hooks.
for name in ebpfmon.__all__:  # Some are imported on first use.
    getattr(ebpfmon, name)
below = {name for name in sys.modules if name.partition(".")[0] == "ebpfmon"}

class Guard(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] != "ebpfmon", f"{name} is not public"

sys.meta_path.insert(0, Guard())
for module in sys.argv[1:]:
    plugin = importlib.import_module(module)
    if hasattr(plugin, "EBPFMON_API_VERSION"):
        for probe in validate.call_hooks(plugin).probes:
            probe.setup(probe.settings()).close()
assert below == {name for name in sys.modules if name.partition(".")[0] == "ebpfmon"}
"""


def test_plugins_and_sinks_load_and_set_up_with_only_the_public_api() -> None:
    modules = []
    for path in OUTSIDE:
        top = ROOT / "plugins" if "plugins" in path.parts else ROOT
        modules.append(".".join(path.relative_to(top).with_suffix("").parts).removesuffix(".__init__"))
    done = subprocess.run([sys.executable, "-c", GUARDED, *modules], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_core_contains_no_package_name_of_a_plugin_or_sink() -> None:
    packages = {part for path in OUTSIDE for part in path.relative_to(ROOT).parts if part.startswith("ebpfmon_")}
    assert {"ebpfmon_sinks", "ebpfmon_process", "ebpfmon_network_viewer"} <= packages
    for name, path in CORE.items():
        strings = [n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)]
        assert [s for s in strings if isinstance(s, str) and any(p in s for p in packages)] == [], name


def test_there_are_no_circular_imports() -> None:
    graph = {name: core_imports(path) for name, path in CORE.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_the_model_does_no_io_and_the_core_imports_no_plugin() -> None:
    io = {"os", "io", "pathlib", "socket", "asyncio", "subprocess", "ctypes", "logging", "time"}
    for name in ("ebpfmon.errors", "ebpfmon.plugins.hookspecs", *(n for n in CORE if n.startswith("ebpfmon.model"))):
        assert not {m for m, _ in imports(CORE[name])} & io, name
    for name, path in CORE.items():
        assert not [m for m, _ in imports(path) if m.startswith(("ebpfmon_", "plugins"))], name


def test_the_compiler_needs_only_the_standard_library() -> None:
    tops = {m.partition(".")[0] for m, _ in imports(CORE["ebpfmon.kernel.compiler"])}
    assert tops <= sys.stdlib_module_names


def test_only_three_modules_open_shared_libraries() -> None:
    found = [n for n, p in CORE.items() if uses(p, ("ctypes", "CDLL"), ("ctypes", "PyDLL"), ("ctypes", "cdll"))]
    assert found == ["ebpfmon.daemon.memory", "ebpfmon.kernel.capabilities", "ebpfmon.kernel.libbpf"]
    assert not [p for p in OUTSIDE if "ctypes" in p.read_text()]


def test_only_the_command_run_tunes_the_allocator() -> None:
    found = [n for n, p in CORE.items() if re.search(r"\bmallopt\b|MALLOC_|\bSetAsyncExc\b", p.read_text())]
    assert found == ["ebpfmon.daemon.memory"]
    assert [n for n, p in CORE.items() if uses(p, ("memory", "share_one_heap"))] == ["ebpfmon.cli.run"]


def test_only_the_command_line_uses_the_environment() -> None:
    names = [("os", n) for n in ("environ", "environb", "getenv", "putenv")]
    found = [p.relative_to(ROOT) for p in (*CORE.values(), *OUTSIDE) if uses(p, *names)]
    assert {str(path.parent) for path in found} == {"ebpfmon/cli"}


def test_all_lists_exactly_the_public_names() -> None:
    for_type_checkers = {n for module, n in imports(CORE["ebpfmon"]) if module != "importlib"}
    assert set(ebpfmon.__all__) == for_type_checkers
    assert all(hasattr(ebpfmon, name) for name in ebpfmon.__all__)
    assert len(set(ebpfmon.__all__)) == len(ebpfmon.__all__)
    assert set(ebpfmon.__all__) <= set(dir(ebpfmon))


def test_the_command_line_limits_the_threads_of_numpy_before_importing_it() -> None:
    """Otherwise numpy would start a thread per CPU, each with memory and all capabilities of the daemon."""
    check = "import sys; import ebpfmon; assert 'numpy' not in sys.modules; import ebpfmon.cli.main, os, numpy"
    counted = "print(len(os.listdir('/proc/self/task')))"
    done = subprocess.run([sys.executable, "-c", f"{check}; {counted}"], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("1\n", "")
