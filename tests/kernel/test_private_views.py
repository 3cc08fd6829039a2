"""ebpfmon in namespaces of its own, where the kernel's numbers stand for something else or for nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.kernel.support import DEFAULTS, EBPFMON, require_namespaces
from tests.kernel.test_applications import running

PID_NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc")


@pytest.mark.parametrize(
    ("before", "hidden"),
    [
        ((), []),
        (PID_NAMESPACE, ["processes"]),
        (("unshare", "--pid", "--fork"), []),  # /proc is still the host's
        (("unshare", "--time", "--boottime=1000", "--fork"), ["processes"]),
        (("unshare", "--user", "--map-root-user"), ["users"]),
        (("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc; exec "$@"', "sh"), ["processes", "cgroups"]),
    ],
    ids=["host", "pid", "pid without proc", "time", "user", "no proc"],
)
def test_check_says_what_a_namespace_hides(before: tuple[str, ...], hidden: list[str]) -> None:
    if before:
        require_namespaces(*before)
    command = [*before, *EBPFMON, "check", *DEFAULTS, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    report = json.loads(done.stdout)
    assert [about for about, problem in report["host"]["views"].items() if problem] == hidden
    advised = {finding["about"] for finding in report["findings"] if finding["advice"]}
    assert advised & {"processes", "users", "cgroups"} == set(hidden)


# A process with the given number in this PID namespace, which another process has on the host.
_NUMBERED = """
echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid
sh -c 'sleep 1000; :' decoy &
echo $!
read go
shift
exec "$@"
"""


def test_in_a_pid_namespace_no_process_gets_the_facts_of_another_with_its_number(tmp_path: Path) -> None:
    require_namespaces(*PID_NAMESPACE)
    (tmp_path / "groups.conf").write_text("wrong: *decoy*\nright: *started-before-ebpfmon*\n")
    (tmp_path / "settings").write_text('[groups]\nby = ["application"]\nfile = "groups.conf"\n')
    ebpfmon = [*EBPFMON, "run", "--config", str(tmp_path / "settings"), "--json", "--for", "5"]
    script = "read go; echo started; sh -c 'while read line; do /bin/true; done'; :"
    with running("sh", "-c", script, "started-before-ebpfmon") as parent:
        command = [*PID_NAMESPACE, "sh", "-c", _NUMBERED, "sh", str(parent.pid), *ebpfmon]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as inside:
            try:
                assert inside.stdin
                assert inside.stdout
                assert int(inside.stdout.readline()) == parent.pid, "the decoy has the parent's number"
                assert parent.stdin
                parent.stdin.write(b"go\n")  # The child starts after the decoy, which could be its parent.
                parent.stdin.flush()
                inside.stdin.write("go\n")
                inside.stdin.flush()
                lines = [json.loads(line) for line in work_while(inside, parent)]
                assert inside.stderr
                errors = inside.stderr.read()
            finally:
                inside.kill()
    assert errors.count("belongs to a PID namespace other than the host's, so processes that are older than") == 1
    groups = {
        series["labels"]["application"]
        for line in lines
        for chart in line["charts"]
        if chart["id"] == "apps.process_create"
        for series in chart["series"]
    }
    assert "other" in groups
    assert "wrong" not in groups


def work_while(inside: subprocess.Popen[str], parent: subprocess.Popen[bytes]) -> list[str]:
    """Make the child of `parent` work before each line of output, and return all lines."""
    lines = []
    assert inside.stdout
    assert parent.stdin
    for line in inside.stdout:
        lines.append(line)
        parent.stdin.write(10 * b"go\n")
        parent.stdin.flush()
    return lines
