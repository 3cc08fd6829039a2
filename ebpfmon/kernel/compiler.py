"""Compiles BPF programs with clang, for every architecture that the wheel is for.

It stands alone (the wheel's build hook runs it before anything is installed): standard library only.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

TARGETS = {"x86_64": "x86", "aarch64": "arm64"}
"""uname(2)'s machine: the name that the kernel's sources and libbpf's headers have for it."""
FLAGS = ("-O2", "-g", "-mcpu=v3", "-target", "bpf", "-Wall", "-Werror", "-Wno-unused-function")

CORE = {"execs": "ebpfmon/grouping"}
"""The core's own programs, in `bpf/`, and the package of each."""

_BCC_KINDS = ("kprobe", "kretprobe", "tp_btf")
"""The section kinds that BCC can do without the kernel's BTF."""
_MAP_TYPE = re.compile(r"struct \w+ \{\s*__uint\([^{}]*\};")
_MAP = re.compile(r"struct (?:\w+ )?(?:\{[^{}]*\} )?(\w+) SEC\(\"\.maps\"\)[^;]*;")
_DATA = re.compile(r"const volatile [^;=]+=[^;]*;|\bchar \w+\[\] SEC\(\"license\"\)[^;]*;")
_PROGRAM = re.compile(r"\bSEC\(\"(\w+)[^\"]*\"\)\s*")


def compile_all(root: Path) -> list[Path]:
    """Compile each STEM.bpf.c to `objects/MACHINE/STEM.bpf.o` in its package, where something changed.

    A probe's source is in its package in `plugins/`, the core's own are in `bpf/`. Beside the object goes STEM.bcc.c,
    the source for BCC.
    """
    headers = sorted((root / "bpf").glob("*.h"))
    built = []
    for source in sorted((*(root / "bpf").glob("*.bpf.c"), *(root / "plugins").glob("*/*.bpf.c"))):
        stem = source.name.removesuffix(".bpf.c")
        package = root / CORE[stem] if source.parent == root / "bpf" else source.parent
        newest = max(path.stat().st_mtime for path in (source, *headers, *source.parent.glob("*.h"), Path(__file__)))
        for machine in TARGETS:
            out = package / "objects" / machine / f"{stem}.bpf.o"
            if not out.exists() or not for_bcc(out).exists() or out.stat().st_mtime < newest:
                compile_object(source, out, machine, root / "bpf")
                built.append(out)
    return built


def for_bcc(out: Path) -> Path:
    """Return the path of the source for BCC, beside a compiled object."""
    return out.with_name(out.name.removesuffix(".bpf.o") + ".bcc.c")


def compile_object(source: Path, out: Path, machine: str, include: Path) -> None:
    """Compile one object. Raises SystemExit, naming the package to install or with clang's own words."""
    out.parent.mkdir(parents=True, exist_ok=True)
    # the kernel's uapi headers for this machine's own compiler; of the architecture they say nothing that is used
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    common = ["clang", f"-D__TARGET_ARCH_{TARGETS[machine]}", f"-I{include}", str(source)]
    command = [*common, *FLAGS, f"-I/usr/include/{multiarch}", f"-fdebug-prefix-map={include.parent}=.",
               "-fdebug-compilation-dir=.", "-c", "-o", str(out)]  # fmt: skip
    # BCC's rewriter stumbles over macros, so it gets the source without them; SEC() stays, for strip_for_bcc
    expand = [*common, "-target", "bpf", "-nostdinc", "-E", "-P", "-DBCC"]
    try:
        subprocess.run(command, check=True)
        expanded = subprocess.run(expand, check=True, stdout=subprocess.PIPE, text=True).stdout
        text = f"// SPDX-License-Identifier: GPL-2.0-only\n// {source.name}, preprocessed for BCC\n"
        text += strip_for_bcc(expanded).replace("#pragma ebpfmon ", "#")
        for_bcc(out).write_text(text, encoding="utf-8")
    except FileNotFoundError:
        raise SystemExit("compile BPF: no clang: apt install clang libbpf-dev linux-libc-dev") from None
    except subprocess.CalledProcessError as error:
        out.unlink(missing_ok=True)
        raise SystemExit(f"compile '{source}' for {machine}: clang failed ({error.returncode})") from None


def strip_for_bcc(text: str) -> str:
    """Return a preprocessed source without what BCC has no use for.

    The loader makes the maps itself, so their definitions go, and `&NAME` becomes a number for which it puts a
    descriptor. Rodata settings go because it defines them as numbers, the licence because BCC has its own, and programs
    that need the kernel's BTF because BCC is there to do without.
    """
    maps = _MAP.findall(text)
    for unwanted in (_MAP, _MAP_TYPE, _DATA):
        text = unwanted.sub("", text)
    if maps:
        text = re.sub(rf"&({'|'.join(maps)})\b", r"((void *)bpf_pseudo_fd(1, MAP_\1))", text)
    kept, at = [], 0
    for program in _PROGRAM.finditer(text):
        kept.append(text[at : program.start()])
        at = program.end() if program[1] in _BCC_KINDS else _end_of_program(text, program.end())
    return "".join(kept) + text[at:]


def _end_of_program(text: str, at: int) -> int:
    """Return the end of the program that begins at `at`. BPF_PROG() expands to two functions: return the end of the
    second."""
    for _ in range(2 if "____" in text[at : text.index("{", at)] else 1):
        depth, at = 1, text.index("{", at) + 1
        while depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
    return at


if __name__ == "__main__":
    for path in compile_all(Path(__file__).resolve().parent.parent.parent):
        print(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path, file=sys.stderr)
