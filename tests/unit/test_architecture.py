"""The laws of the house, read from the source."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import types
from pathlib import Path

import pytest

import ebpfmon

ROOT = Path(__file__).parents[2]
CORE = {
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
    for p in sorted((ROOT / "ebpfmon").rglob("*.py"))
}
OUTSIDE = sorted(p for top in ("ebpfmon_sinks", "plugins") for p in (ROOT / top).rglob("*.py"))
STAGES = {n for n in CORE if n.startswith("ebpfmon.pipeline.")} - {
    "ebpfmon.pipeline.pipeline",
    "ebpfmon.pipeline.schedule",
}
SOURCES = [
    p for top in ("ebpfmon", "ebpfmon_sinks", "plugins", "bpf", "tests", "benchmarks") for p in (ROOT / top).rglob("*")
    if p.suffix in {".py", ".c", ".h"} and "objects" not in p.parts  # those are made by `make bpf`
]  # fmt: skip


def imports(path: Path) -> set[tuple[str, str]]:
    """(module, name) of every import in a file, wherever it stands; the name is "" for a whole module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it leads"
            whole = {a.name for a in node.names if f"{node.module}.{a.name}" in CORE}
            found |= {(f"{node.module}.{n}", "") for n in whole}
            found |= {(node.module or "", a.name) for a in node.names if a.name not in whole}
    return found


def of_core(path: Path) -> set[str]:
    """The modules of ebpfmon that a file imports."""
    return {module for module, _ in imports(path) if module in CORE}


def uses(path: Path, *attributes: tuple[str, str]) -> bool:
    """Whether a file has `module.attribute`, or imports it by name."""
    nodes = ast.walk(ast.parse(path.read_text()))
    dotted = {(n.value.id, n.attr) for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}
    return bool((dotted | imports(path)) & set(attributes))


def test_the_law_looks_at_something() -> None:
    assert {"ebpfmon.pipeline.accounting", "ebpfmon.pipeline.publish", "ebpfmon.pipeline.harvest"} <= STAGES
    assert len(OUTSIDE) >= 3
    assert of_core(CORE["ebpfmon.pipeline.pipeline"]) >= STAGES


@pytest.mark.parametrize("stage", sorted(STAGES | {"ebpfmon.pipeline.schedule"}))
def test_a_stage_imports_the_model_and_the_errors_and_no_other_stage(stage: str) -> None:
    of_clock = {(m, n) for m, n in imports(CORE[stage]) if m == "ebpfmon.pipeline.schedule"}
    assert of_clock <= ({("ebpfmon.pipeline.schedule", "Clock")} if stage == "ebpfmon.pipeline.harvest" else set())
    knowledge = {n for n in CORE if n.startswith("ebpfmon.grouping") and stage == "ebpfmon.pipeline.attribute"}
    assert of_core(CORE[stage]) - {"ebpfmon.pipeline.schedule"} <= {
        "ebpfmon.model.everything",
        "ebpfmon.errors",
        "ebpfmon.pipeline.aggregate",
        "ebpfmon.pipeline.gauges",
        "ebpfmon.pipeline.selection",
        *knowledge,
    }


def test_only_the_pipeline_knows_all_the_stages() -> None:
    assert [n for n, path in CORE.items() if of_core(path) >= STAGES] == ["ebpfmon.pipeline.pipeline"]


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda p: str(p.relative_to(ROOT)))
def test_plugins_and_sinks_import_the_public_ebpfmon_alone(path: Path) -> None:
    own = path.relative_to(ROOT / "plugins").parts[0] if "plugins" in path.parts else "ebpfmon_sinks"
    ours = {m for m, _ in imports(path) if m.startswith("ebpfmon")}
    assert {m for m in ours if m.partition(".")[0] != own} <= {"ebpfmon"}
    assert {n for m, n in imports(path) if m == "ebpfmon"} <= set(ebpfmon.__all__)
    # nor do they reach further down from there, or import what no import statement says
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


def attributes(tree: ast.AST) -> set[tuple[str, str]]:
    """All `name.attribute`s."""
    nodes = ast.walk(tree)
    return {(n.value.id, n.attr) for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}


def called(call: ast.Call) -> str:
    """The name of what is called, but for `re.compile`."""
    of = call.func
    if isinstance(of, ast.Attribute):
        return "" if isinstance(of.value, ast.Name) and of.value.id == "re" else of.attr
    return of.id if isinstance(of, ast.Name) else ""


def of_own_package(call: ast.Call, own: str) -> bool:
    """Whether what is imported by its name begins with the importer's own package."""
    return bool(call.args) and ast.unparse(call.args[0]).lstrip("f").strip("'\"").startswith(f"{own}.")


GUARDED = """
import importlib, importlib.abc, importlib.metadata, sys
import ebpfmon
from ebpfmon.plugins import validate as contract  # which asks the hooks
below = {name for name in sys.modules if name.partition(".")[0] == "ebpfmon"}

class Guard(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] != "ebpfmon", f"{name} is not public"

sys.meta_path.insert(0, Guard())
for module in sys.argv[1:]:
    plugin = importlib.import_module(module)
    if hasattr(plugin, "EBPFMON_API_VERSION"):
        for probe in contract.ask(plugin).probes:
            probe.setup(probe.settings()).close()
assert below == {name for name in sys.modules if name.partition(".")[0] == "ebpfmon"}
"""


def test_plugins_and_sinks_import_nothing_else_of_ebpfmon_when_they_are_really_loaded_and_set_up() -> None:
    modules = []
    for path in OUTSIDE:
        top = ROOT / "plugins" if "plugins" in path.parts else ROOT
        modules.append(".".join(path.relative_to(top).with_suffix("").parts).removesuffix(".__init__"))
    done = subprocess.run([sys.executable, "-c", GUARDED, *modules], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_core_names_no_plugin_and_no_sink_by_its_package_not_even_in_a_string() -> None:
    packages = {part for path in OUTSIDE for part in path.relative_to(ROOT).parts if part.startswith("ebpfmon_")}
    assert {"ebpfmon_sinks", "ebpfmon_process", "ebpfmon_network_viewer"} <= packages
    for name, path in CORE.items():
        strings = [n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)]
        assert [s for s in strings if isinstance(s, str) and any(p in s for p in packages)] == [], name


def test_no_imports_go_in_a_circle() -> None:
    graph = {name: of_core(path) for name, path in CORE.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())


def test_the_data_words_do_no_io_and_the_core_knows_no_plugin() -> None:
    io = {"os", "io", "pathlib", "socket", "asyncio", "subprocess", "ctypes", "logging", "time"}
    for name in ("ebpfmon.model.everything", "ebpfmon.errors", "ebpfmon.plugins.hookspecs"):
        assert not {m for m, _ in imports(CORE[name])} & io, name
    for name, path in CORE.items():
        assert not [m for m, _ in imports(path) if m.startswith(("ebpfmon_", "plugins"))], name


def test_the_compiler_needs_the_standard_library_alone() -> None:
    tops = {m.partition(".")[0] for m, _ in imports(CORE["ebpfmon.kernel.compiler"])}
    assert tops <= sys.stdlib_module_names


def test_only_the_bindings_to_libbpf_and_to_capabilities_open_a_shared_library() -> None:
    found = [n for n, p in CORE.items() if uses(p, ("ctypes", "CDLL"), ("ctypes", "PyDLL"), ("ctypes", "cdll"))]
    assert found == ["ebpfmon.kernel.capabilities", "ebpfmon.kernel.libbpf"]
    assert not [p for p in OUTSIDE if "ctypes" in p.read_text()]


def test_only_the_command_line_reads_or_writes_the_environment() -> None:
    names = [("os", n) for n in ("environ", "environb", "getenv", "putenv")]
    assert [p.name for p in (*CORE.values(), *OUTSIDE) if uses(p, *names)] == ["cli.py"]


def test_what_is_public_is_in_all_and_all_of_it_is_there() -> None:
    public = {n for n, v in vars(ebpfmon).items() if not n.startswith("_") and not isinstance(v, types.ModuleType)}
    assert set(ebpfmon.__all__) == public
    assert ebpfmon.__all__ == sorted(ebpfmon.__all__)


def test_no_file_is_longer_than_four_hundred_lines() -> None:
    assert len(SOURCES) > 30
    assert not {str(p): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 400}
