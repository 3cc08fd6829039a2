"""Runs BCC as a compiler: a request as JSON on stdin, the programs' instructions as JSON on stdout.

A program of its own, so that BCC's memory goes with it, and it can run under the one Python that has BCC (Debian's).
So it stands alone: the standard library and bcc.
"""

import base64
import json
import sys
from contextlib import suppress

NO_BCC = 3
"""Exit status: this Python has no BCC."""
# 7.2's headers have anonymous tagged members
FLAGS = ["-fms-extensions", "-Wno-everything"]


def main() -> int:
    """Compile; returns the exit status. What clang says goes to stderr."""
    try:
        from bcc import BPF  # type: ignore[import-not-found]  # Debian's, for its own Python
    except ImportError:  # PyPI's bcc has no BPF
        return NO_BCC
    request = json.load(sys.stdin)
    try:
        compiled = BPF(text=request["text"], cflags=[*FLAGS, *request["flags"]])
    except Exception as error:  # BCC raises nothing narrower
        print(error, file=sys.stderr)
        return 1
    code = {}
    for name in request["programs"]:
        with suppress(Exception):  # not in the source, as it is nothing for BCC
            code[name] = base64.b64encode(compiled.dump_func(name.encode())).decode()
    json.dump(code, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
