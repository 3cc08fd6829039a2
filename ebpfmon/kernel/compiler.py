"""Compile BPF programs with clang for all supported architectures.

The wheel's build hook runs this file before anything is installed, so it imports only the standard library.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

TARGETS = {"x86_64": "x86", "aarch64": "arm64"}
"""The architectures: the machine of uname(2), and its name in libbpf's headers and the kernel's sources."""
FLAGS = ("-O2", "-g", "-mcpu=v3", "-target", "bpf", "-Wall", "-Werror", "-Wno-unused-function")

CORE = {"execs": "ebpfmon/grouping"}
"""The core's own programs in `bpf/`: the name of each, and the package that gets its object."""

_BCC_KINDS = ("kprobe", "kretprobe", "tp_btf")
"""The section kinds that BCC can compile for kernels without BTF."""
_MAP_TYPE = re.compile(r"struct \w+ \{\s*__uint\([^{}]*\};")
_MAP = re.compile(r"struct (?:\w+ )?(?:\{[^{}]*\} )?(\w+) SEC\(\"\.maps\"\)[^;]*;")
_DATA = re.compile(r"const volatile [^;=]+=[^;]*;|\bchar \w+\[\] SEC\(\"license\"\)[^;]*;")
_PROGRAM = re.compile(r"\bSEC\(\"(\w+)[^\"]*\"\)\s*")


def compile_all(root: Path) -> list[Path]:
    """Compile each NAME.bpf.c that has changed, and return the objects written.

    Sources are in the packages of probes in `plugins/`, and the core's own in `bpf/`. The output is
    `objects/MACHINE/NAME.bpf.o` in the package and, beside it, NAME.bcc.c, the source for BCC.
    """
    built = []
    for source in sorted((*(root / "bpf").glob("*.bpf.c"), *(root / "plugins").glob("*/*.bpf.c"))):
        stem = source.name.removesuffix(".bpf.c")
        package = root / CORE[stem] if source.parent == root / "bpf" else source.parent
        newest = max(path.stat().st_mtime for path in (*inputs(source, root / "bpf"), Path(__file__)))
        for machine in TARGETS:
            out = package / "objects" / machine / f"{stem}.bpf.o"
            if not out.exists() or not bcc_source(out).exists() or out.stat().st_mtime < newest:
                compile_object(source, out, machine, root / "bpf")
                built.append(out)
    return built


def inputs(source: Path, include: Path) -> list[Path]:
    """Return the files that an object is compiled from: the source and the headers."""
    return [source, *source.parent.glob("*.h"), *include.glob("*.h")]


def bcc_source(out: Path) -> Path:
    """Return the path of the source for BCC that belongs to a compiled object."""
    return out.with_name(out.name.removesuffix(".bpf.o") + ".bcc.c")


def compile_object(source: Path, out: Path, machine: str, include: Path) -> None:
    """Compile one object and its source for BCC.

    Raises SystemExit if clang is missing or fails; clang itself prints its errors.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    # The kernel's uapi headers of this machine serve all targets: no architecture-specific part of them is used.
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    common = ["clang", f"-D__TARGET_ARCH_{TARGETS[machine]}", f"-I{include}", str(source)]
    command = [*common, *FLAGS, f"-I/usr/include/{multiarch}", f"-fdebug-prefix-map={include.parent}=.",
               "-fdebug-compilation-dir=.", "-c", "-o", str(out)]  # fmt: skip
    # BCC's rewriter cannot handle our macros, so expand them. SEC() stays, because strip_for_bcc needs it.
    expand = [*common, "-target", "bpf", "-nostdinc", "-E", "-P", "-DBCC"]
    try:
        subprocess.run(command, check=True)
        expanded = subprocess.run(expand, check=True, stdout=subprocess.PIPE, text=True).stdout
        text = f"// SPDX-License-Identifier: GPL-2.0-only\n// {source.name}, preprocessed for BCC\n"
        text += strip_for_bcc(expanded).replace("#pragma ebpfmon ", "#")
        bcc_source(out).write_text(text, encoding="utf-8")
    except FileNotFoundError:
        raise SystemExit(
            "cannot compile BPF programs: clang is missing; apt install clang libbpf-dev linux-libc-dev"
        ) from None
    except subprocess.CalledProcessError as error:
        out.unlink(missing_ok=True)
        raise SystemExit(
            f"cannot compile '{source}' for {machine}: clang failed with status {error.returncode}"
        ) from None


def strip_for_bcc(text: str) -> str:
    """Return a preprocessed source without the parts that BCC cannot use.

    - Map definitions: the loader creates the maps. `&NAME` becomes a number, which it replaces by a descriptor.
    - Rodata settings: the loader defines them as numbers, which it replaces by their values.
    - The licence: BCC sets its own.
    - Programs that need the kernel's BTF: BCC is used on kernels without it.
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
    """Return the end of the program that begins at `at`: of its second function if BPF_PROG() has made two."""
    for _ in range(2 if "____" in text[at : text.index("{", at)] else 1):
        depth, at = 1, text.index("{", at) + 1
        while depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
    return at


if __name__ == "__main__":
    for path in compile_all(Path(__file__).resolve().parent.parent.parent):
        print(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path, file=sys.stderr)
