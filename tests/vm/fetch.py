"""Debian's kernels, with their headers, through apt: from sources of our own, and without installing anything.

What is kept, in $EBPFMON_KERNELS or ~/.cache/ebpfmon-kernels:

    debian-3/SERIES               a link to the release that stands for a series now
    debian-3/RELEASE/vmlinuz
    debian-3/RELEASE/modules/     what the initramfs loads, in the order of the names
    debian-3/RELEASE/root/        what a guest sees as if it was installed: the configuration, the headers
    apt/                          apt's own lists
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.vm.initramfs import MODULES, in_order

SERIES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "bookworm", "7.2": "sid"}
"""The kernel series, and the release of Debian that has them."""
MOVING = "sid"
"""Its kernel is replaced by that of the next series every few weeks: whatever is the newest stands for its series."""
_KEPT = "debian-3"
"""Another number when something else is kept of a kernel: what is in an older cache is not used any more."""
_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
_FRESH_S = 24 * 3600  # Debian updates a kernel about once a week
_RELEASE = re.compile(r"linux-image-(\d+\.\d+\.\d+[^-]*(?:-\d+)?-amd64)")  # neither -cloud-, -rt- nor -dbg
_PART = re.compile(r"linux-(?:image|base|binary|modules|headers|kbuild)-\d\S*")


class MissingKernelError(Exception):
    """Apt has no such kernel, or cannot be reached."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel on disk."""

    series: str
    release: str
    path: Path


def cache() -> Path:
    return Path(os.environ.get("EBPFMON_KERNELS") or Path.home() / ".cache" / "ebpfmon-kernels")


def mirrors(sources: str) -> tuple[str, str]:
    """The machine's mirror of Debian, and that of its security updates, from its own list of sources."""
    found = re.findall(r"^(?:URIs:|deb(?: \[.*?\])?)[ \t]+(\S+)", sources, re.M)
    security = [uri for uri in found if "debian-security" in uri]
    main = [uri for uri in found if "debian" in uri and uri not in security]
    return (
        next(iter(main), "http://deb.debian.org/debian"),
        next(iter(security), "http://deb.debian.org/debian-security"),
    )


def choose(madison: str, series: str) -> str | None:
    """The newest release of a series, from what `apt-cache madison linux-image-...` says."""
    suite = SERIES[series]
    releases = []
    for line in madison.splitlines():
        package, _, source = (part.strip() for part in line.split("|"))
        name = _RELEASE.fullmatch(package)
        if name and re.search(rf" {suite}(-security)?/", source):
            releases.append(name[1])
    own = [release for release in releases if release.startswith(f"{series}.")]
    candidates = own or (releases if suite == MOVING else [])
    return max(candidates, key=lambda release: [int(n) for n in re.findall(r"\d+", release)], default=None)


def parts(show: str) -> set[str]:
    """The packages that are part of a kernel or of its headers, from the dependencies in `apt-cache show`."""
    depends = re.findall(r"^Depends: (.*)$", show, re.M)
    names = {dependency.split()[0] for line in depends for dependency in line.split(", ")}
    return {name for name in names if _PART.fullmatch(name)}


class Apt:
    """Apt with lists of its own, so that the machine's stay as they are."""

    def __init__(self, where: Path) -> None:
        self._where = where
        options = {
            "Dir::Etc::sourcelist": where / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State::lists": where / "lists",
            "Dir::Cache": where / "cache",
            "Dir::Cache::pkgcache": "packages.bin",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "root",  # apt's own user may not enter /root
        }
        self._options = [f"-o{name}={value}" for name, value in options.items()]

    def update(self) -> None:
        """Get the lists. What of them cannot be had is seen when a kernel is looked for."""
        machines = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
        main, security = mirrors("\n".join(path.read_text() for path in machines if path.exists()))
        wanted = [(main, suite) for suite in dict.fromkeys(SERIES.values())] + [(security, "bookworm-security")]
        for directory in ("lists/partial", "cache/archives/partial"):
            (self._where / directory).mkdir(parents=True, exist_ok=True)
        lines = [f"deb [signed-by={_KEYS}] {uri} {suite} main\n" for uri, suite in wanted]
        (self._where / "sources.list").write_text("".join(lines))
        subprocess.run(["apt-get", "-qq", *self._options, "update"], check=False)

    def ask(self, *query: str) -> str:
        """What apt-cache answers; of names that it does not know it says nothing."""
        command = ["apt-cache", *self._options, *query]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def release(self, series: str) -> str:
        """The release that stands for a series. Raises MissingKernelError."""
        names = [name for name in self.ask("pkgnames", "linux-image-").split() if _RELEASE.fullmatch(name)]
        release = choose(self.ask("madison", *names), series) if names else None
        if not release:
            raise MissingKernelError(f"find a kernel {series}: apt has none in {SERIES[series]}")
        return release

    def packages(self, release: str) -> list[str]:
        """The packages of a kernel and of its headers. (From 7.2 on a kernel is split into several.)"""
        found: set[str] = set()
        new = {f"linux-image-{release}", f"linux-headers-{release}"}
        while new:
            found |= new
            new = parts(self.ask("show", *sorted(new))) - found
        return sorted(found)

    def download(self, packages: list[str], into: Path) -> list[Path]:
        """Raises MissingKernelError."""
        command = ["apt-get", "-qq", *self._options, "download", *packages]
        done = subprocess.run(command, cwd=into, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingKernelError(f"download {' '.join(packages)}: {done.stderr.strip() or 'apt-get failed'}")
        return sorted(into.glob("*.deb"))


def unpack(packages: list[Path], release: str, into: Path) -> None:
    """Keep of a kernel's packages what a guest needs: 90 MB of 400."""
    with tempfile.TemporaryDirectory(dir=into.parent) as directory:
        work = Path(directory)
        for package in packages:
            _extract(package, work)
        modules = {path.name.partition(".ko")[0].replace("-", "_"): path for path in work.rglob("*.ko*")}
        needed = in_order(MODULES, modules)
        result, tree, boot = work / "result", work / "usr/lib/modules" / release, work / "boot"
        for new in (result / "modules", result / "root/usr/lib", boot):
            new.mkdir(parents=True, exist_ok=True)
        for name in ("vmlinuz", "config"):
            if (tree / name).exists():  # since 7.2 it is their installation that puts them into /boot
                (tree / name).rename(boot / f"{name}-{release}")
        (boot / f"vmlinuz-{release}").rename(result / "vmlinuz")
        for i, (module, data) in enumerate(needed.items()):
            (result / "modules" / f"{i:02}-{module}.ko").write_bytes(data)
        shutil.rmtree(tree / "kernel")
        for kept in (boot, work / "usr/src", tree.parent, *work.glob("usr/lib/linux-*")):
            kept.rename(result / "root" / kept.relative_to(work))
        shutil.rmtree(into, ignore_errors=True)
        result.rename(into)


def _extract(package: Path, into: Path) -> None:
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as unpacker,
        tarfile.open(fileobj=unpacker.stdout, mode="r|") as archive,
    ):
        archive.extraction_filter = lambda member, _: member  # links to /usr/src are meant so
        for member in archive:
            member.name = re.sub(r"^(\./)?lib/", "usr/lib/", member.name)  # where /lib leads today
            if "/doc/" not in member.name and "System.map" not in member.name:
                archive.extract(member, into)
    if unpacker.returncode:
        raise MissingKernelError(f"unpack '{package.name}': dpkg-deb failed ({unpacker.returncode})")


@contextlib.contextmanager
def _alone(where: Path) -> Iterator[None]:
    """Nobody else changes the cache meanwhile."""
    where.mkdir(parents=True, exist_ok=True)
    with (where / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fetch(series: str) -> Kernel:
    """The kernel that stands for a series: the cache's, unless there may be a newer one. Raises MissingKernelError."""
    where = cache() / _KEPT
    link = where / series
    with _alone(where):
        if not link.is_dir() or time.time() - link.lstat().st_mtime > _FRESH_S:
            try:
                _renew(series, link)
            except MissingKernelError as error:
                if not link.is_dir():
                    raise
                print(f"ebpfmon: {error}: going on with {link.readlink()}", flush=True)
        release = str(link.readlink())
    return Kernel(series, release, where / release)


def _renew(series: str, link: Path) -> None:
    where = cache() / "apt"
    apt = Apt(where)
    stamp = where / "cache" / "updated"
    if not stamp.exists() or time.time() - stamp.stat().st_mtime > _FRESH_S / 2:
        apt.update()
        stamp.touch()
    release = apt.release(series)
    before = str(link.readlink()) if link.is_symlink() else ""
    path = link.with_name(release)
    if not path.exists():
        print(f"ebpfmon: fetching kernel {release} and its headers", flush=True)
        with tempfile.TemporaryDirectory(dir=link.parent) as work:
            unpack(apt.download(apt.packages(release), Path(work)), release, path)
    link.unlink(missing_ok=True)
    link.symlink_to(release)
    if before and before != release:
        shutil.rmtree(link.with_name(before), ignore_errors=True)
