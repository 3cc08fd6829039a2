"""Third-party plugins that are broken in different ways: each is reported in one line, and affects nothing else."""

from __future__ import annotations

import os
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from ebpfmon.kernel.compiler import compile_object
from ebpfmon.plugins import build
from tests.kernel.support import EBPFMON
from tests.kernel.third_party import SOURCE, amounts, make_private, run_programs, running

pytestmark = pytest.mark.timeout(300)  # Compiling programs takes long on a busy machine.
TIMES = 7
HEAD = """
from ebpfmon import Candidate, Chart, Dimension, Event, Probe, Setup, SinkSettings, hookimpl
EBPFMON_API_VERSION = 2
def probe(field="started", **more):
    shown = Chart(id="NAME", title="Programs", units="programs/s", family="f", priority=1, grouped=True,
                  dimensions=(Dimension.value(field),))
    programs = ("sched_process_exec_tp_btf", "sched_process_exec_tp")
    events = (Event("exec", tuple(Candidate(programs=(name,)) for name in programs)),)
    return Probe(name="NAME", package=__name__, object="NAME", charts=(shown,), events=events, **more)
"""
PROBES = "@hookimpl\ndef ebpfmon_register_probes():\n    "
SINKS = "@hookimpl\ndef ebpfmon_register_sinks():\n    "
BROKEN = {
    "raises": (
        PROBES + "raise ZeroDivisionError('in probes')\n" + SINKS + "raise ZeroDivisionError('in sinks')",
        "plugin 'raises' is left out: ZeroDivisionError: in probes",
    ),
    "raises_sinks": (
        PROBES + "return []\n" + SINKS + "raise ZeroDivisionError('in sinks')",
        "plugin 'raises_sinks' is left out: ZeroDivisionError: in sinks",
    ),
    "raises_at_once": ("1 / 0", "plugin 'raises_at_once' is left out: ZeroDivisionError: division by zero"),
    "ends": ("raise SystemExit(3)", "plugin 'ends' is left out: SystemExit: 3"),
    "nonsense": (
        PROBES + "return ['a probe']",
        "plugin 'nonsense' is left out: ebpfmon_register_probes returned 'a probe', not a Probe",
    ),
    "version_99": (
        "EBPFMON_API_VERSION = 99\n" + PROBES + "return [probe()]",
        "plugin 'version_99' is left out: it was written for API version 99; this ebpfmon needs "
        "EBPFMON_API_VERSION = 2",
    ),
    "clashes": (
        PROBES + "return [probe(), Probe(name='process', package='x', object='x', charts=())]",
        f"plugin 'clashes' is left out: plugin 'process' (ebpfmon {version('ebpfmon')}) already has a probe 'process'",
    ),
    "unverified": (
        PROBES + "return [probe()]",
        "probe 'unverified' is left out: cannot attach 'exec' (probe unverified) at ",
    ),
    "no_field": (
        PROBES + "return [probe('strated')]",
        "probe 'no_field' is left out: chart 'no_field': table 'no_field' has no field "
        "'strated'; it has started",
    ),
    "no_object": (
        PROBES + "return [probe()]",
        "probe 'no_object' is left out: cannot find the object of probe 'no_object': no '",
    ),
    "no_setup": (
        "def fail(settings): raise KeyError('x')\n" + PROBES + "return [probe(setup=fail)]",
        "probe 'no_setup' is left out: cannot set up probe 'no_setup': KeyError: 'x'",
    ),
    "bad_setup": (
        "def bad(settings): return Setup(maps={'bad_setup_totals': 5})\n" + PROBES + "return [probe(setup=bad)]",
        "probe 'bad_setup' is left out: cannot load probe 'bad_setup': "
        "AttributeError: 'int' object has no attribute 'items'",
    ),
    "twin": (
        PROBES + "return [probe()]",
        "probe 'twin' is left out: probe 'good' already has a table 'good'",
    ),
    "bad_sink": (
        "class BadSettings(SinkSettings, tag='bad_sink'):\n    def open(self): raise KeyError('x')\n"
        + SINKS + "return [BadSettings]",
        "sink 'bad_sink' has failed and will be tried again: KeyError: 'x'",
    ),
}  # fmt: skip
"""The code of each plugin, and the beginning of its message."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all broken plugins, and one that works."""
    where = tmp_path_factory.mktemp("third_party") / "plugins"
    where.mkdir()
    for name, (text, _) in {**BROKEN, "good": (PROBES + "return [probe()]", "")}.items():
        (where / f"{name}.py").write_text((HEAD + text).replace("NAME", name))
    machine = os.uname().machine
    for name in ("good", "no_field", "no_setup", "unverified", "bad_setup", "twin"):
        body = "*(volatile int *)0x1234;" if name == "unverified" else ""
        table = "good" if name == "twin" else name
        source = where / f"{name}.bpf.c"
        source.write_text(SOURCE.replace("NAME", table).replace("BODY", body))
        compile_object(source, where / "objects" / machine / f"{name}.bpf.o", machine, build.headers())
    return make_private(where)


def test_each_broken_plugin_is_reported_in_one_line_and_affects_nothing_else(folder: Path, tmp_path: Path) -> None:
    settings = tmp_path / "e.toml"
    settings.write_text(
        f'[ebpfmon]\nplugins_dir = "{folder}"\n[groups]\nby = ["process"]\n[plugins.network_viewer]\nenabled = false\n'
        '[plugins.raises]\nthreshold = 5\n[[sinks]]\ntype = "bad_sink"\n[[sinks]]\ntype = "raises_sinks"\n'
        '[[sinks]]\ntype = "log"\nformat = "json"\n'
    )
    with running([*EBPFMON, "run", "--config", settings], tmp_path) as daemon:
        daemon.until(daemon.snapshots)
        run_programs(tmp_path, "outsider", TIMES)
        daemon.until(lambda: sum(amounts(daemon.snapshots(), "processes.good", process="outsider")) >= TIMES)
        assert sum(amounts(daemon.snapshots(), "processes.file_open", process="outsider")) > TIMES
        daemon.stop()
        messages = daemon.text("stderr").splitlines()
        assert sum(amounts(daemon.snapshots(), "processes.good", process="outsider")) == TIMES
    for name, (_, line) in BROKEN.items():
        about = [found for found in messages if re.match(rf"ebpfmon: (plugin|probe|sink) '{name}' ", found)]
        about = [found for found in about if re.search(" is left out: | will be tried again: ", found)]
        assert len(about) == 1, messages
        assert about[0].startswith(f"ebpfmon: {line}")
    assert not [line for line in messages if "Traceback" in line]
    assert "ebpfmon: probe 'good': 1 event by tracepoint" in messages
    assert "ebpfmon: ignoring plugins.raises: plugin 'raises' is left out" in messages


def test_if_strict_the_first_broken_plugin_stops_ebpfmon(folder: Path, tmp_path: Path) -> None:
    settings = tmp_path / "e.toml"
    disabled = [name for name in BROKEN if name not in ("ends", "nonsense")]
    settings.write_text(f'[ebpfmon]\nplugins_dir = "{folder}"\ndisabled_plugins = {disabled}\n')
    command = [*EBPFMON, "run", "--for", "60", "--config", str(settings)]
    done = subprocess.run([*command, "--strict"], capture_output=True, text=True, check=False)
    error = "ebpfmon: plugin 'ends' cannot be used, and strict is set: SystemExit: 3\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", error)


def test_if_strict_a_probe_that_cannot_be_loaded_stops_ebpfmon(folder: Path, tmp_path: Path) -> None:
    settings = tmp_path / "e.toml"
    disabled = [name for name in BROKEN if name != "unverified"]
    settings.write_text(f'[ebpfmon]\nstrict = true\nplugins_dir = "{folder}"\ndisabled_plugins = {disabled}\n')
    command = [*EBPFMON, "run", "--for", "60", "--config", str(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("ebpfmon: cannot attach 'exec' (probe unverified)")


def test_check_reports_probes_that_do_not_match_their_objects(folder: Path, tmp_path: Path) -> None:
    settings = tmp_path / "e.toml"
    disabled = [name for name in BROKEN if name != "no_field"]
    settings.write_text(f'[ebpfmon]\nplugins_dir = "{folder}"\ndisabled_plugins = {disabled}\n')
    done = subprocess.run([*EBPFMON, "check", "--config", settings], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    text = " ".join(done.stdout.split())
    assert "probe 'no_field' cannot be loaded" in text
    assert "table 'no_field' has no field 'strated'; it has started" in text
    assert "probe 'good', loader core" in text
