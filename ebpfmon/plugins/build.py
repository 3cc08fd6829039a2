"""Find the BPF headers and compile BPF programs, for `ebpfmon bpf`."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ebpfmon.errors import ObjectError, SettingsError
from ebpfmon.kernel import compiler
from ebpfmon.shortage import no_process, remedy

SUFFIX = ".bpf.c"


def headers() -> Path:
    """Return the directory of the BPF headers: `ebpfmon/bpf` in the wheel, `bpf` in a clone."""
    package = Path(__file__).parent.parent
    return next(path for path in (package / "bpf", package.parent / "bpf") if (path / "ebpfmon.bpf.h").is_file())


def build(sources: Sequence[Path], output: Path | None = None) -> Iterator[Path]:
    """Compile each NAME.bpf.c for all architectures, and yield the files written.

    The files are `output`/MACHINE/NAME.bpf.o and, beside it, NAME.bcc.c, the source for BCC. `output` is by default the
    directory `objects` beside the source, where the probe of that package looks for its object.

    Raises SettingsError if a source or the output is not usable, and ObjectError if the compilation fails; clang prints
    its errors to stderr.
    """
    for source in sources:
        if not source.name.endswith(SUFFIX) or source.name == SUFFIX:
            raise SettingsError(f"cannot compile '{source}': its name must be NAME{SUFFIX}")
        if not os.path.isfile(source):  # Path.is_file() raises an error for a name that is too long
            raise SettingsError(f"cannot compile '{source}': there is no such file")
    for source in sources:
        for machine in compiler.TARGETS:
            folder = (output or source.parent / "objects") / machine
            out = folder / f"{source.name.removesuffix(SUFFIX)}.bpf.o"
            try:
                compiler.compile_object(source, out, machine, headers())
            except SystemExit as error:  # compiler.py cannot import our error classes
                raise ObjectError(str(error)) from None
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    raise ObjectError(
                        f"cannot compile '{source}': cannot start clang{no_process(error.errno)}"
                    ) from None
                raise SettingsError(
                    f"cannot compile '{source}': cannot write to '{folder}': {error.strerror}"
                    + remedy(error.errno or 0)
                ) from None
            yield out
            yield compiler.bcc_source(out)
