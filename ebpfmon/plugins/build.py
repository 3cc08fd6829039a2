"""The BPF headers that programs include, and `ebpfmon bpf build`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ebpfmon.errors import ObjectError, SettingsError
from ebpfmon.kernel import compiler

SUFFIX = ".bpf.c"


def headers() -> Path:
    """Return the folder that has `ebpfmon.bpf.h`: in the wheel beside this file, in a clone at its top."""
    here = Path(__file__).parent.parent
    return next(place for place in (here / "bpf", here.parent / "bpf") if (place / "ebpfmon.bpf.h").is_file())


def build(sources: Sequence[Path], output: Path | None = None) -> Iterator[Path]:
    """Compile each NAME.bpf.c to OUTPUT/MACHINE/NAME.bpf.o, and beside it NAME.bcc.c, the source for BCC; yields what
    was written. OUTPUT is by default `objects` beside the source: there a probe of that package finds it.

    Raises SettingsError for what is no such source, ObjectError if it cannot be compiled; clang says why on stderr.
    """
    for source in sources:
        if not source.name.endswith(SUFFIX) or source.name == SUFFIX:
            raise SettingsError(f"compile '{source}': expected a file called NAME{SUFFIX}")
        if not source.is_file():
            raise SettingsError(f"compile '{source}': no such file")
    for source in sources:
        for machine in compiler.TARGETS:
            folder = (output or source.parent / "objects") / machine
            out = folder / f"{source.name.removesuffix(SUFFIX)}.bpf.o"
            try:
                compiler.compile_object(source, out, machine, headers())
            except SystemExit as error:  # it stands alone, and knows no errors of ours
                raise ObjectError(str(error)) from None
            except OSError as error:
                raise SettingsError(f"compile '{source}': write '{folder}': {error.strerror}") from None
            yield out
            yield compiler.for_bcc(out)
