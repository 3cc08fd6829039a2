"""The errors that a caller can act on.

EbpfmonError            the base of all errors that ebpfmon raises on purpose
├── SettingsError       a wrong settings file or option; nothing was loaded (exit status 2)
├── PluginError         a plugin that cannot be used; the others can
├── SinkError           a sink that cannot deliver now; it will be tried again
│   └── SinkGoneError   a sink whose reader has gone for good; it ends
└── KernelError         the kernel, or what is needed to talk to it, refuses
    ├── ObjectError     a compiled object that is missing, or that is not one of ours
    ├── LoadError       a program or map that the kernel does not accept
    └── AttachError     an event that cannot be attached as asked

A message says what failed, on which object (in quotes), why, and what to do.
"""

from ebpfmon.text import escaped


class EbpfmonError(Exception):
    """The base of the tree. Its text is one line for the user, whatever names from outside are in it."""

    def __init__(self, message: str) -> None:
        super().__init__(escaped(message))


class SettingsError(EbpfmonError):
    """A setting is wrong. The message names its source, its key, and what was expected."""


class PluginError(EbpfmonError):
    """A plugin is broken, or was written for another API version."""


class SinkError(EbpfmonError):
    """A sink cannot deliver for now."""


class SinkGoneError(SinkError):
    """A sink's reader has gone away for good, which is no failure (`| head`)."""


class KernelError(EbpfmonError):
    """The kernel refuses, or what is needed to talk to it is missing."""


class ObjectError(KernelError):
    """A compiled BPF object is missing or cannot be read."""


class LoadError(KernelError):
    """The kernel refused to load an object.

    `program` is the program at fault, if that is known. `errno` is the kernel's answer: positive, or 0 if unknown.
    """

    def __init__(self, message: str, *, program: str | None = None, errno: int = 0) -> None:
        super().__init__(message)
        self.program = program
        self.errno = errno


class AttachError(KernelError):
    """An event cannot be attached. `errno` is the kernel's answer: positive, or 0 if unknown."""

    def __init__(self, message: str, *, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno
