"""Download Debian's kernels and their headers with apt, without installing anything or changing the host's apt lists.

The cache, in $EBPFMON_KERNELS or ~/.cache/ebpfmon-kernels, contains:

    debian-4/SERIES               a link to the newest known release of a kernel series
    debian-4/RELEASE/vmlinuz
    debian-4/RELEASE/modules/     the modules that the initramfs loads, in the order of their names
    debian-4/RELEASE/root/        files that the guest sees as if installed: configuration and headers
    apt/                          apt's package lists
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
"""Each kernel series, and the Debian release that has it."""
ROLLING = "sid"
"""The Debian release that moves to the next kernel series every few weeks. Its newest kernel is used, of any series."""
_LAYOUT = "debian-4"
"""The version of the cache's layout. Change the number when the layout changes, so older caches are ignored."""
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_FRESH_S = 24 * 3600  # Debian updates a kernel about once a week.
_RELEASE = re.compile(r"linux-image-(\d+\.\d+\.\d+[^-]*(?:-\d+)?-amd64)")  # Excludes -cloud-, -rt- and -dbg.
_PART = re.compile(r"linux-(?:image|base|binary|modules|headers|kbuild)-\d\S*")


class MissingKernelError(Exception):
    """Raised if apt has no such kernel, or its servers cannot be reached."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel in the cache."""

    series: str
    release: str
    path: Path


def cache() -> Path:
    return Path(os.environ.get("EBPFMON_KERNELS") or Path.home() / ".cache" / "ebpfmon-kernels")


def mirrors(sources: str) -> tuple[str, str]:
    """Return the host's mirrors of Debian and of its security updates, from the text of its apt sources."""
    found = re.findall(r"^(?:URIs:|deb(?: \[.*?\])?)[ \t]+(\S+)", sources, re.M)
    security = [uri for uri in found if "debian-security" in uri]
    main = [uri for uri in found if "debian" in uri and uri not in security]
    return (
        next(iter(main), "http://deb.debian.org/debian"),
        next(iter(security), "http://deb.debian.org/debian-security"),
    )


def choose(madison: str, series: str) -> str | None:
    """Return the newest release of a series, from the output of `apt-cache madison linux-image-...`."""
    suite = SERIES[series]
    releases = []
    for line in madison.splitlines():
        package, _, source = (part.strip() for part in line.split("|"))
        name = _RELEASE.fullmatch(package)
        if name and re.search(rf" {suite}(-security)?/", source):
            releases.append(name[1])
    own = [release for release in releases if release.startswith(f"{series}.")]
    candidates = own or (releases if suite == ROLLING else [])
    return max(candidates, key=lambda release: [int(n) for n in re.findall(r"\d+", release)], default=None)


def parts(show: str) -> set[str]:
    """Return the packages of a kernel and its headers, from the dependencies in the output of `apt-cache show`."""
    depends = re.findall(r"^Depends: (.*)$", show, re.M)
    names = {dependency.split()[0] for line in depends for dependency in line.split(", ")}
    return {name for name in names if _PART.fullmatch(name)}


class Apt:
    """Apt with its own package lists, so the host's are not changed."""

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
            "APT::Sandbox::User": "root",  # apt's own user cannot read /root.
        }
        self._options = [f"-o{name}={value}" for name, value in options.items()]

    def update(self) -> None:
        """Download the package lists. If one fails, the search for a kernel reports it."""
        host_sources = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
        main, security = mirrors("\n".join(path.read_text() for path in host_sources if path.exists()))
        suites = [(main, suite) for suite in dict.fromkeys(SERIES.values())] + [(security, "bookworm-security")]
        for directory in ("lists/partial", "cache/archives/partial"):
            (self._where / directory).mkdir(parents=True, exist_ok=True)
        lines = [f"deb [signed-by={_KEYRING}] {uri} {suite} main\n" for uri, suite in suites]
        (self._where / "sources.list").write_text("".join(lines))
        subprocess.run(["apt-get", "-qq", *self._options, "update"], check=False)

    def query(self, *arguments: str) -> str:
        """Return the output of apt-cache, which omits unknown names."""
        command = ["apt-cache", *self._options, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def release(self, series: str) -> str:
        """Return the newest release of a series. Raises MissingKernelError."""
        names = [name for name in self.query("pkgnames", "linux-image-").split() if _RELEASE.fullmatch(name)]
        release = choose(self.query("madison", *names), series) if names else None
        if not release:
            raise MissingKernelError(f"no kernel {series}: apt finds none in Debian {SERIES[series]}")
        return release

    def packages(self, release: str) -> list[str]:
        """Return the packages of a kernel and its headers. From 7.2 on Debian splits a kernel into several packages."""
        found: set[str] = set()
        new = {f"linux-image-{release}", f"linux-headers-{release}"}
        while new:
            found |= new
            new = parts(self.query("show", *sorted(new))) - found
        return sorted(found)

    def download(self, packages: list[str], into: Path) -> list[Path]:
        """Download packages into a directory and return their paths. Raises MissingKernelError."""
        command = ["apt-get", "-qq", *self._options, "download", *packages]
        done = subprocess.run(command, cwd=into, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingKernelError(f"cannot download {' '.join(packages)}: {done.stderr.strip() or 'apt-get failed'}")
        return sorted(into.glob("*.deb"))


def unpack(packages: list[Path], release: str, into: Path) -> None:
    """Unpack the files that a guest needs from a kernel's packages: 90 of 400 MB."""
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
            if (tree / name).exists():  # From 7.2 on, installing the package moves them to /boot.
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
        archive.extraction_filter = lambda member, _: member  # The absolute links to /usr/src are intended.
        for member in archive:
            member.name = re.sub(r"^(\./)?lib/", "usr/lib/", member.name)  # On the host /lib is a link to /usr/lib.
            if "/doc/" not in member.name and "System.map" not in member.name:
                archive.extract(member, into)
    if unpacker.returncode:
        raise MissingKernelError(f"cannot unpack '{package.name}': dpkg-deb failed ({unpacker.returncode})")


@contextlib.contextmanager
def _locked(where: Path) -> Iterator[None]:
    """Hold the lock of the cache, so no other process changes it."""
    where.mkdir(parents=True, exist_ok=True)
    with (where / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fetch(series: str) -> Kernel:
    """Return the kernel for a series, from the cache if it is fresh. Raises MissingKernelError."""
    where = cache() / _LAYOUT
    link = where / series
    with _locked(where):
        if not link.is_dir() or time.time() - link.lstat().st_mtime > _FRESH_S:
            try:
                _update(series, link)
            except MissingKernelError as error:
                if not link.is_dir():
                    raise
                print(f"ebpfmon: {error}; using {link.readlink()} from the cache", flush=True)
        release = str(link.readlink())
    return Kernel(series, release, where / release)


def _update(series: str, link: Path) -> None:
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
        print(f"ebpfmon: downloading kernel {release} and its headers", flush=True)
        with tempfile.TemporaryDirectory(dir=link.parent) as work:
            unpack(apt.download(apt.packages(release), Path(work)), release, path)
    link.unlink(missing_ok=True)
    link.symlink_to(release)
    if before and before != release:
        shutil.rmtree(link.with_name(before), ignore_errors=True)
