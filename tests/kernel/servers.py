"""Real programs under load: nginx, PostgreSQL, Redis, Python with processes and threads, and a compiler.

Each writes only below a directory of its own, has a bounded load, and leaves nothing behind.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

LIMIT_S = 60
"""The time limit of each step. The machine may be slow and busy with other tests."""

NGINX, REDIS, PYTHON = "/usr/sbin/nginx", "/usr/bin/redis-server", "/usr/bin/python3"
_Command = Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, with the commands that make its load. Its processes must be counted in the group `group`."""

    group: str
    tgid: int
    log: Path
    commands: tuple[_Command, ...]

    def load(self) -> None:
        """Run all commands, one after the other."""
        for command in self.commands:
            _run(command, self.log.parent, self.log)


@contextmanager
def nginx(directory: Path) -> Iterator[Server]:
    """Run a master and two workers that serve a page of 64 KB over TCP and log every request."""
    port, log = _free_port(), directory / "nginx.log"
    (directory / "page.html").write_bytes(b"x" * 65536)
    configuration = directory / "nginx.conf"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)
    # The workers run as root too, because no other user may enter pytest's directories.
    configuration.write_text(f"""
        user root; worker_processes 2; daemon off; pid {directory}/nginx.pid; error_log stderr;
        events {{ worker_connections 64; }}
        http {{
            sendfile on; access_log {directory}/access.log; {paths}
            server {{ listen 127.0.0.1:{port}; root {directory}; }}
        }}""")
    command = (NGINX, "-e", "stderr", "-p", directory, "-c", configuration)
    with _running(command, log, lambda: _listens(port)) as process:
        load = ("ab", "-q", "-n", "12007", "-c", "8", "-s", str(LIMIT_S), f"http://127.0.0.1:{port}/page.html")
        yield Server("nginx", process.pid, log, (load,))


@contextmanager
def postgres(directory: Path) -> Iterator[Server]:
    """Run a cluster of its own that listens on a Unix socket only. The load fills the tables, then changes them."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3])).parent
    log = directory / "postgres.log"
    # PostgreSQL refuses to run as root, and no other user may enter pytest's directories. The path of a socket must not
    # be longer than 107 bytes.
    with TemporaryDirectory(prefix="ebpfmon-postgres-") as own:
        home = Path(own)
        shutil.chown(home, "postgres")
        data = home / "data"
        initdb = (programs / "initdb", "--no-sync", "--no-locale", "-E", "UTF8", "-A", "trust", "-U", "postgres", data)
        _run(initdb, home, log, user="postgres")
        sizes = ("--shared_buffers=16MB", "--max_wal_size=64MB", "--max_connections=20")
        where = ("-D", data, "--listen_addresses=", f"--unix_socket_directories={home}")
        command = (programs / "postgres", *where, *sizes, "--fsync=off")
        pid_file = data / "postmaster.pid"

        def ready() -> bool:
            return pid_file.exists() and pid_file.read_text().rstrip().endswith("\nready")

        with _running(command, log, ready, "postgres") as process:
            pgbench = (programs / "pgbench", "-h", home, "-U", "postgres")
            fill = (*pgbench, "-i", "-q", "-s", "1", "postgres")
            work = (*pgbench, "-n", "-c", "4", "-j", "2", "-t", "503", "postgres")
            # A connection for each transaction, because starting and ending a backend is work too.
            connect = (*pgbench, "-n", "-S", "-C", "-c", "2", "-t", "53", "postgres")
            yield Server("postgres", process.pid, log, (fill, work, connect))


@contextmanager
def redis(directory: Path) -> Iterator[Server]:
    """Run a server that appends every change to a file, and saves everything in a forked child during the load."""
    port, log = _free_port(), directory / "redis.log"
    where = ("--bind", "127.0.0.1", "--port", str(port), "--dir", directory)
    command = (REDIS, *where, "--daemonize", "no", "--appendonly", "yes", "--save", "1 1000")
    with _running(command, log, lambda: _listens(port)) as process:
        load = ("redis-benchmark", "-p", str(port), "-q", "-c", "8", "-d", "512", "-t", "set,get,lpush,hset")
        save = ("redis-cli", "-p", str(port), "bgrewriteaof")
        yield Server("redis", process.pid, log, ((*load, "-n", "12007"), save, (*load, "-n", "3001")))


SERVERS = (nginx, postgres, redis)

_SCRIPT = """
import multiprocessing, os, pathlib, sys, threading

def files(kind, worker):
    for number in range(503):
        path = pathlib.Path(sys.argv[1], f"{kind}-{worker}-{number}")
        path.write_bytes(b"x" * 4096)
        assert len(path.read_bytes()) == 4096
        path.unlink()

def both(start, kind):
    workers = [start(target=files, args=(kind, worker)) for worker in range(3)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()

if __name__ == "__main__":
    both(threading.Thread, "thread")
    both(multiprocessing.get_context("fork").Process, "process")
"""


def python(directory: Path) -> None:
    """Run Debian's Python: three threads, then three processes, that write, read and delete files. Group: python."""
    script = directory / "work.py"
    script.write_text(_SCRIPT)
    _run((PYTHON, "-I", script, directory), directory, directory / "python.log")


_MAKEFILE = """
OBJECTS = $(patsubst %.c,%.o,$(wildcard part*.c))
program: libparts.a main.o
\tset -e; gcc -o $@ main.o -L. -lparts -lm; ./program > result; grep -q 17 result
libparts.a: $(OBJECTS)
\trm -f $@; ar rcs $@ $(OBJECTS)
%.o: %.c
\tset -e; echo "CC $@"; gcc -O2 -Wall -c -o $@ $<
"""


def compiler(directory: Path) -> None:
    """Build a library of 17 parts and a program with make, two jobs at a time. Groups: build and compilers."""
    parts = range(17)
    headers = "".join(f"#include <{name}.h>\n" for name in ("math", "stdio", "stdlib", "string", "sys/stat"))
    for part in parts:
        code = f"int part{part}(int n) {{ return n > 0 && fabs(sin({part})) <= 1; }}\n"
        (directory / f"part{part}.c").write_text(headers + code)
    declared = "".join(f"int part{part}(int);\n" for part in parts)
    called = " + ".join(f"part{part}(n)" for part in parts)
    main = f'int main(int n, char **words) {{ (void)words; printf("%d\\n", {called}); return 0; }}\n'
    (directory / "main.c").write_text(headers + declared + main)
    (directory / "Makefile").write_text(_MAKEFILE)
    _run(("make", "-j2"), directory, directory / "make.log")


@contextmanager
def _started(command: _Command, cwd: Path, log: Path, user: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process in a session of its own. At the end, terminate the session and all descendants."""
    # The make of compiler() must not see the variables of `make test`.
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True, user=user, group=user, extra_groups=[] if user else None,
        )  # fmt: skip
    left: list[psutil.Process] = []
    try:
        yield process
    finally:
        descendants = _descendants(process.pid)  # PostgreSQL's children have sessions of their own.
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        _, left = psutil.wait_procs({*descendants, *_session(process.pid)}, timeout=5)
        for one in left:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(left, timeout=LIMIT_S)
    if left:
        raise _failed(f"processes were left behind: {left}", command, log)


@contextmanager
def _running(
    command: _Command, log: Path, ready: Callable[[], bool], user: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server, yield its process when it is ready, and stop it. Raises RuntimeError if it fails."""
    with _started(command, Path("/"), log, user) as process:
        end = time.monotonic() + LIMIT_S
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                raise _failed("did not start", command, log)
            time.sleep(0.02)
        yield process
    if process.returncode:
        raise _failed(f"exited with status {process.returncode}", command, log)


def _run(command: _Command, cwd: Path, log: Path, user: str | None = None) -> None:
    """Run a command, and raise RuntimeError if it fails or takes too long."""
    with _started(command, cwd, log, user) as process:
        with suppress(subprocess.TimeoutExpired):
            process.wait(LIMIT_S)
        if process.returncode is None:
            raise _failed(f"not done after {LIMIT_S} s", command, log)
    if process.returncode:
        raise _failed(f"exited with status {process.returncode}", command, log)


def _failed(what: str, command: _Command, log: Path) -> RuntimeError:
    tail = log.read_text(errors="replace")[-2000:]
    return RuntimeError(f"{' '.join(map(str, command))}: {what}; the end of its log:\n{tail}")


def _descendants(tgid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(tgid).children(recursive=True)
    return []


def _session(leader: int) -> list[psutil.Process]:
    """Return the processes of a session whose leader has ended."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getsid(process.pid) == leader:
                found.append(process)
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
