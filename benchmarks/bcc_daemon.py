"""A monitor to compare with: count system calls by process with BCC, and print a JSON line every second.

It runs under Debian's Python, which has python3-bpfcc, and therefore uses nothing of ebpfmon.
"""

from __future__ import annotations

import json
import sys
import time

from bcc import BPF  # type: ignore[import-not-found]  # Only Debian's Python has it.

_PROGRAM = """
#include <linux/ptrace.h>
struct key_t { u32 tgid; u32 nr; };
BPF_HASH(counts, struct key_t, u64, 65536);
RAW_TRACEPOINT_PROBE(sys_exit)
{
    struct pt_regs regs = {};
    struct key_t key = { .tgid = bpf_get_current_pid_tgid() >> 32 };
    bpf_probe_read_kernel(&regs, sizeof(regs), (void *)ctx->args[0]);
    key.nr = regs.NR;
    switch (key.nr) { CASES counts.increment(key); }
    return 0;
}
"""
# The x86-64 numbers of the system calls that ebpfmon counts.
_COUNTED = (0, 1, 2, 3, 17, 18, 19, 20, 87, 257, 263, 295, 296, 327, 328, 436, 437)


def main() -> None:
    """Count until the process is stopped."""
    cases = " ".join(f"case {n}:" for n in _COUNTED)
    counts = BPF(text=_PROGRAM.replace("CASES", cases).replace("regs.NR", "regs.orig_ax"))["counts"]
    while True:
        time.sleep(1 - time.time() % 1)
        rows = [[k.tgid, k.nr, v] for k, v in counts.items_lookup_and_delete_batch()]
        sys.stdout.write(json.dumps({"time": time.time(), "rows": rows}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
