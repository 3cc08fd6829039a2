"""The samples on the pages for plugin authors, used as the pages say."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.kernel.support import EBPFMON
from tests.kernel.third_party import amounts, make_private, run_programs, running
from tests.unit.samples import PROBES, sample, write

pytestmark = pytest.mark.timeout(300)  # Compiling programs takes long on a busy machine.
TIMES = 13
USER = 54_321  # No user has this ID.
SETTINGS = """
[ebpfmon]
plugins_dir = "{folder}"
strict = true
[groups]
by = ["process"]
[plugins.process]
enabled = false
[plugins.network_viewer]
enabled = false
[plugins.users]
minimum_uid = 54321
[[sinks]]
type = "log"
format = "json"
[[sinks]]
type = "sqlite"
path = "{database}"
charts = ["processes.hello*"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the samples, compiled with the command on the page."""
    place = write(
        tmp_path_factory.mktemp("samples") / "plugins",
        "hello.bpf.c", "hello.py", "test_hello.py", "users.bpf.c", "users.py", "sqlite_sink.py",
    )  # fmt: skip
    command = next(line for line in sample(PROBES, "sh", "bpf build").splitlines() if "bpf build" in line)
    for name in ("hello", "users"):
        words = command.partition("#")[0].replace("hello", name).split()
        subprocess.run([*EBPFMON, *words[1:]], cwd=place, check=True)
    (place / "test_hello.py").rename(place.parent / "test_hello.py")  # It is not a plugin.
    return make_private(place)


def test_the_sample_test_of_the_sample_probe_passes(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        ".",
        "-o",
        "pythonpath=plugins",
    ]
    done = subprocess.run([*command, "test_hello.py"], cwd=folder.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_the_sample_probes_count_and_the_sample_sink_stores_it(folder: Path, tmp_path: Path) -> None:
    settings, database = tmp_path / "e.toml", tmp_path / "rows.db"
    settings.write_text(SETTINGS.format(folder=folder, database=database))
    with running([*EBPFMON, "run", "--config", str(settings)], tmp_path) as daemon:
        daemon.until(daemon.snapshots)
        run_programs(tmp_path, "outsider", TIMES)
        for _ in range(TIMES):
            subprocess.run(["true"], user=USER, check=True)

        def seen() -> list[int]:
            shots = daemon.snapshots()
            by_process = sum(amounts(shots, "processes.hello_started", process="outsider"))
            by_user = sum(amounts(shots, "users.started", user=str(USER)))
            return [by_process, by_user, stored(database)]

        daemon.until(lambda: min(seen()) >= TIMES, what=lambda: str(seen()))
        assert seen() == [TIMES] * 3
        daemon.stop()
        assert "Traceback" not in daemon.text("stderr")


def stored(database: Path) -> int:
    """Return how many programs called outsider the sample sink has stored."""
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT sum(delta) FROM rows WHERE chart = 'processes.hello_started' AND dimension = 'value'"
        ((amount,),) = connection.execute(f"{query} AND json_extract(labels, '$.process') = 'outsider'")
        return amount or 0


def test_sighup_reloads_the_settings_of_plugins_and_keeps_the_plugins(folder: Path, tmp_path: Path) -> None:
    settings = tmp_path / "e.toml"
    core = f'[ebpfmon]\nplugins_dir = "{folder}"\ndisabled_plugins = [%s]\n[groups]\nby = []\n'
    others = "[plugins.process]\nenabled = false\n[plugins.network_viewer]\nenabled = false\n"
    sink = '[[sinks]]\ntype = "log"\nformat = "json"\n'
    settings.write_text(core % '"hello"' + others + "[plugins.users]\nminimum_uid = 0\n" + sink)
    with running([*EBPFMON, "run", "--config", str(settings)], tmp_path) as daemon:
        daemon.until(daemon.snapshots)
        settings.write_text(core % "" + others + f"[plugins.users]\nminimum_uid = {USER}\n" + sink)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(lambda: "reloaded the settings and the probes" in daemon.text("stderr"))
        before = len(daemon.snapshots())
        for user in (USER, USER - 1):
            subprocess.run(["true"], user=user, check=True)
        daemon.until(lambda: amounts(daemon.snapshots(), "users.started", user=str(USER)))
        daemon.stop()
        after = daemon.snapshots()[before:]
        assert sum(amounts(after, "users.started", user=str(USER))) == 1
        assert not amounts(after, "users.started", user=str(USER - 1))
        assert not [c for s in daemon.snapshots() for c in s["charts"] if c["id"] == "hello.started"]
        warning = f"ebpfmon: {settings}: ebpfmon.disabled_plugins changed: restart ebpfmon to apply it"
        assert daemon.text("stderr").splitlines().count(warning) == 1
        assert "plugins_dir changed" not in daemon.text("stderr")
