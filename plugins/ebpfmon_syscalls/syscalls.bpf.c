// SPDX-License-Identifier: GPL-2.0-only
/* Each system call: how often it is made, how long it takes, with which errors it ends, and in how many threads it is
 * under way. */
#include "ebpfmon.bpf.h"
#include "syscalls.bpf.h"

/* System calls made in one interval, and the errors that each ends with: a kernel has less than 500. Two sides of 1,024
 * rows of 0.3 kB and of 1,024 of 64 bytes, key and hash element included, are 0.7 MB. The setting table_size changes it. */
#define CALLS 1024
/* Threads whose calls can be timed at once; those of others are counted as `unfollowed`. 65,536 of 80 bytes are 5.2 MB. */
#define THREADS 65536
/* Latencies: up to half a microsecond, twice that ... 2.1 seconds, and more. */
#define UNIT_NS 500
#define SLOTS 24
#define MAX_ERRNO 4095

struct syscalls_key {
	__u32 number;
	__u32 compat;	/* of a 32-bit program on a 64-bit kernel, whose numbers are others */
};
_Static_assert(sizeof(struct syscalls_key) == 8, "syscalls_key has no padding");

struct syscalls_counters {
	__u64 calls;		/* that began */
	__u64 ended;		/* ... of which, or with their thread; but for: */
	__u64 unfollowed;	/* ... whose end will not be seen */
	__u64 errors;
	__u64 call_ns;		/* that calls took that returned, together */
	__u64 latency[SLOTS];
};

KEYED_TABLE(syscalls, struct syscalls_key, CALLS);

struct syscall_errors_key {
	__u32 number;
	__u32 compat;
	__u32 error;	/* errno */
	__u32 unused;
};
_Static_assert(sizeof(struct syscall_errors_key) == 16, "syscall_errors_key has no padding");

struct syscall_errors_counters {
	__u64 failures;
};

KEYED_TABLE(syscall_errors, struct syscall_errors_key, CALLS);

/* The call that a thread is in, if `began_ns`. A hash, and not storage of the task, which neither Linux 5.10 nor BCC
 * have; its element stays as long as the thread lives, so a call costs two lookups and no insertion. By the task's
 * address, as a thread's ID changes when it calls execve(2) beside others. */
struct syscall_begun {
	__u64 began_ns;
	struct syscalls_key call;
};

#ifndef BCC
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, THREADS);
	__type(key, __u64);
	__type(value, struct syscall_begun);
} syscalls_begun SEC(".maps");
#endif

static __always_inline int on_enter(__u32 number)
{
	__u64 task = bpf_get_current_task();
	struct syscall_begun fresh = {}, *begun;
	struct syscalls_slots to;

	fresh.began_ns = bpf_ktime_get_ns();
	fresh.call.number = number;
	fresh.call.compat = in_32_bit_call();
	begun = bpf_map_lookup_elem(MAP(syscalls_begun), &task);
	if (begun && begun->began_ns) {
		/* the kernel left out the program at the end of the last one, and counted that */
		if (syscalls_slots(&to, &begun->call))
			ADD(&to, ended, 1);
	}
	if (!syscalls_slots(&to, &fresh.call))
		return 0;
	ADD(&to, calls, 1);
	if (begun)
		*begun = fresh;
	else if (bpf_map_update_elem(MAP(syscalls_begun), &task, &fresh, BPF_ANY))
		ADD(&to, unfollowed, 1);
	return 0;
}

/* What returns without having been seen to begin was under way when ebpfmon came, was refused by seccomp(2), or is a new
 * task, which returns from the call that made it. */
static __always_inline int on_leave(long result)
{
	__u64 task = bpf_get_current_task(), took_ns;
	struct syscall_errors_key key = {};
	struct syscall_errors_slots of_error;
	struct syscall_begun *begun;
	struct syscalls_slots to;
	__u32 slot;

	begun = bpf_map_lookup_elem(MAP(syscalls_begun), &task);
	if (!begun || !begun->began_ns)
		return 0;
	took_ns = bpf_ktime_get_ns() - begun->began_ns;
	begun->began_ns = 0;
	if (!syscalls_slots(&to, &begun->call))
		return 0;
	ADD(&to, ended, 1);
	ADD(&to, call_ns, took_ns);
	slot = log2_slot(took_ns, UNIT_NS, SLOTS);
	ADD_SLOT(&to, latency, slot);
	if (result >= 0 || result < -MAX_ERRNO)
		return 0;
	ADD(&to, errors, 1);
	key.number = begun->call.number;
	key.compat = begun->call.compat;
	key.error = -result;
	if (syscall_errors_slots(&of_error, &key))
		ADD(&of_error, failures, 1);
	return 0;
}

/* The current thread exits: with exit(2) and exit_group(2), which do not return, or by a signal. */
static __always_inline int on_thread_exit(void *ctx)
{
	__u64 task = bpf_get_current_task();
	struct syscall_begun *begun;
	struct syscalls_slots to;

	begun = bpf_map_lookup_elem(MAP(syscalls_begun), &task);
	if (!begun)
		return 0;
	if (begun->began_ns && syscalls_slots(&to, &begun->call))
		ADD(&to, ended, 1);
	bpf_map_delete_elem(MAP(syscalls_begun), &task);
	return 0;
}

/* TP_PROTO(struct pt_regs *regs, long id) */
static __always_inline int on_sys_enter(__u64 *ctx)
{
	return on_enter(ctx[1]);
}
TRACEPOINT(syscall_enter, sys_enter, on_sys_enter)

/* TP_PROTO(struct pt_regs *regs, long ret) */
static __always_inline int on_sys_exit(__u64 *ctx)
{
	return on_leave(ctx[1]);
}
TRACEPOINT(syscall_exit, sys_exit, on_sys_exit)

TRACEPOINT(thread_exit, sched_process_exit, on_thread_exit)

/* For kernels that preempt programs at the raw ones. */
#ifndef BCC
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct trace_event_raw_sys_enter {
	long id;
};
#pragma clang attribute pop

static __always_inline int on_classic_sys_enter(struct trace_event_raw_sys_enter *ctx)
{
	return on_enter(ctx->id);
}
CLASSIC_TRACEPOINT(syscall_enter, raw_syscalls, sys_enter, on_classic_sys_enter)

static __always_inline int on_classic_sys_exit(struct trace_event_raw_sys_exit *ctx)
{
	return on_leave(ctx->ret);
}
CLASSIC_TRACEPOINT(syscall_exit, raw_syscalls, sys_exit, on_classic_sys_exit)
CLASSIC_TRACEPOINT(thread_exit, sched, sched_process_exit, on_thread_exit)
#endif

LICENSE("GPL");
