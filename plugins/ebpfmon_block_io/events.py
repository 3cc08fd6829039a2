"""The events of the block I/O probe, each with its candidate programs in `block_io.bpf.c`.

A disk's queue runs in any context, softirqs included, so a program may interrupt another one. Raw tracepoints then miss
the fewest events: the kernel skips a program at a raw tracepoint only if it interrupts itself, but skips a program at a
kprobe or classic tracepoint if it interrupts any program of these kinds.
"""

from ebpfmon import Candidate, Event

EVENTS = (
    Event(
        "request_issue",
        (
            # With BCC the number of arguments is unknown, so both are tried. The one with two comes first, because the
            # kernel rejects a program that reads more arguments than there are.
            Candidate(programs=("block_rq_issue_of_queue_tp_btf",), arguments=2),
            Candidate(programs=("block_rq_issue_tp_btf",), arguments=1),
        ),
    ),
    Event("request_complete", (Candidate(programs=("block_rq_complete_tp_btf",)),)),
)
