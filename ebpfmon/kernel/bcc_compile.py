"""Compile programs with BCC: read a request as JSON from stdin, write the instructions as JSON to stdout.

This runs as a separate program for two reasons: BCC's memory is freed when it ends, and it can run under the
distribution's Python, the only one that can import BCC. Therefore it imports nothing but the standard library and bcc.
"""

import base64
import json
import sys
from contextlib import suppress

NO_BCC = 3
"""The exit status if this Python cannot import BCC."""
# The headers of Linux 7.2 have anonymous tagged members.
FLAGS = ["-fms-extensions", "-Wno-everything"]


def main() -> int:
    """Compile the request and return the exit status. Error messages of clang go to stderr."""
    try:
        from bcc import BPF  # type: ignore[import-not-found]  # only Debian's Python has it
    except ImportError:  # Also if this is the unrelated package 'bcc' of PyPI, which has no BPF.
        return NO_BCC
    request = json.load(sys.stdin)
    try:
        compiled = BPF(text=request["text"], cflags=[*FLAGS, *request["flags"]])
    except Exception as error:  # BCC raises no narrower class
        print(error, file=sys.stderr)
        return 1
    code = {}
    for name in request["programs"]:
        with suppress(Exception):  # The source lacks the programs that BCC cannot compile.
            code[name] = base64.b64encode(compiled.dump_func(name.encode())).decode()
    json.dump(code, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
