"""What can go wrong, as far as a caller can act on it.

EbpfmonError            every error that ebpfmon raises on purpose; str() is one line for the user
├── SettingsError       a wrong settings file or option: nothing was loaded (exit status 2)
├── PluginError         a plugin that cannot be used: others go on without it
├── SinkError           a sink that cannot deliver now: it is tried again
│   └── SinkGoneError   ... and never will again, as its reader has gone: it ends
└── KernelError         the kernel, or what stands between it and us, refuses
    ├── ObjectError     a compiled object is missing or is not one of ours
    ├── LoadError       the kernel does not take a program or a map: says which, and the verifier's last word
    └── AttachError     an event cannot be seen in the way that was asked for

A message reads: step, quoted object, cause, remedy.
"""


class EbpfmonError(Exception):
    """The base of the tree."""


class SettingsError(EbpfmonError):
    """A setting is wrong: names the source, the key path, and what was expected."""

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


class PluginError(EbpfmonError):
    """A plugin is broken, or was written for another API version."""


class SinkError(EbpfmonError):
    """A sink cannot deliver for now."""


class SinkGoneError(SinkError):
    """A sink's reader has gone away for good, and that is no failure (`| head`)."""


class KernelError(EbpfmonError):
    """The kernel refuses, or what we need to speak with it is missing."""


class ObjectError(KernelError):
    """A compiled BPF object is missing or cannot be read."""


class LoadError(KernelError):
    """The kernel refused to load an object.

    `program` is the program at fault where it is known, `errno` the kernel's answer (positive, 0 if unknown).
    """

    def __init__(self, message: str, *, program: str | None = None, errno: int = 0) -> None:
        super().__init__(message)
        self.program = program
        self.errno = errno


class AttachError(KernelError):
    """An event cannot be attached; `errno` is the kernel's answer (positive, 0 if unknown)."""

    def __init__(self, message: str, *, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno
