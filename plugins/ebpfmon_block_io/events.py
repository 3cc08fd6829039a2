"""What the block I/O probe counts, and by which programs (`block_io.bpf.c`).

A disk's queue runs in whatever context, softirqs too: there the raw tracepoints miss least, because a kernel leaves out
kprobes' and classic tracepoints' programs on top of any other of those, and a raw tracepoint's on top of itself alone.
"""

from ebpfmon import Candidate, Event

EVENTS = (
    Event(
        "request_issue",
        (
            # BCC cannot know the number of arguments, and takes the first one that the kernel accepts, which refuses a
            # program that reads more arguments than there are
            Candidate(programs=("block_rq_issue_of_queue_tp_btf",), arguments=2, softirq=True),
            Candidate(programs=("block_rq_issue_tp_btf",), arguments=1, softirq=True),
        ),
    ),
    Event("request_complete", (Candidate(programs=("block_rq_complete_tp_btf",), softirq=True),)),
)
