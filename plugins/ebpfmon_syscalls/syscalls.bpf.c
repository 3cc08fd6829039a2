// SPDX-License-Identifier: GPL-2.0-only
/* Counts each system call: how often it is made, how long it takes, which errors it returns, and how many threads are
 * in it. */
#include "ebpfmon.bpf.h"
#include "syscalls.bpf.h"

/* Rows per interval of each table: system calls (a kernel has fewer than 500), and pairs of a call and an
 * error. Two buffers of 1,024 rows of 304 bytes and of 1,024 rows of 88 bytes, key and hash table included, are 0.8 MB.
 * The setting table_size overrides it. */
#define CALLS 1024
/* Threads whose calls can be timed. Further threads are counted as `unfollowed`. 65,536 of 88 bytes are 5.8 MB. */
#define THREADS 65536
/* The bounds of the latency histogram are half a microsecond, twice that, and so on up to 2.1 seconds. */
#define UNIT_NS 500
#define SLOTS 24
#define MAX_ERRNO 4095

#ifndef BCC
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct trace_event_raw_sys_enter {
	long id;
};
#pragma clang attribute pop
#endif

struct syscalls_key {
	__u32 number;
	__u32 compat;	/* 1: a 32-bit program on a 64-bit kernel, whose calls have other numbers */
};
_Static_assert(sizeof(struct syscalls_key) == 8, "syscalls_key has no padding");

struct syscalls_counters {
	__u64 calls;		/* calls that began */
	__u64 ended;		/* calls that returned or whose thread exited, except unfollowed ones */
	__u64 unfollowed;	/* calls that could not be tracked, so their end is not counted */
	__u64 errors;		/* calls that returned an error */
	__u64 call_ns;		/* sum of the latencies of calls that returned */
	__u64 latency[SLOTS];
};

#define TABLE syscalls
#define TABLE_SIZE CALLS
#include "keyed_table.bpf.h"

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

#define TABLE syscall_errors
#define TABLE_SIZE CALLS
#include "keyed_table.bpf.h"

/* The call that a thread is in, or none if `began_ns` is 0. This is a hash map because Linux 5.10 and BCC do not have
 * task storage. An element stays until its thread exits, so a call costs two lookups and no insertion. The key is
 * the task's address, because the ID of a thread changes if it calls execve(2) while the process has other threads. */
struct syscall_begun {
	__u64 began_ns;
	struct syscalls_key call;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, THREADS);
	__type(key, __u64);
	__type(value, struct syscall_begun);
} syscalls_begun SEC(".maps");

static __always_inline int on_enter(__u32 number)
{
	__u64 task = bpf_get_current_task();
	struct syscall_begun fresh = {}, *begun;
	struct syscalls_counters *counters;

	fresh.began_ns = bpf_ktime_get_ns();
	fresh.call.number = number;
	fresh.call.compat = in_32_bit_call();
	begun = bpf_map_lookup_elem(&syscalls_begun, &task);
	if (begun && begun->began_ns) {
		/* The kernel skipped the program at the end of the last call, and counted a missed run. */
		counters = syscalls_find(&begun->call);
		if (counters)
			count(&counters->ended, 1);
	}
	counters = syscalls_find(&fresh.call);
	if (!counters)
		return 0;
	count(&counters->calls, 1);
	if (begun)
		*begun = fresh;
	else if (bpf_map_update_elem(&syscalls_begun, &task, &fresh, BPF_ANY))
		count(&counters->unfollowed, 1);
	return 0;
}

/* Handle the return of a call. Its beginning was not counted if it was in progress when ebpfmon started, if seccomp(2)
 * refused it, or if this is a new task that returns from the call that created it. */
static __always_inline int on_return(long result)
{
	__u64 task = bpf_get_current_task(), took_ns;
	struct syscall_errors_counters *error;
	struct syscall_errors_key key = {};
	struct syscalls_counters *counters;
	struct syscall_begun *begun;

	begun = bpf_map_lookup_elem(&syscalls_begun, &task);
	if (!begun || !begun->began_ns)
		return 0;
	took_ns = bpf_ktime_get_ns() - begun->began_ns;
	begun->began_ns = 0;
	counters = syscalls_find(&begun->call);
	if (!counters)
		return 0;
	count(&counters->ended, 1);
	count(&counters->call_ns, took_ns);
	count_slot(counters->latency, log2_slot(took_ns, UNIT_NS, SLOTS), SLOTS);
	if (result >= 0 || result < -MAX_ERRNO)
		return 0;
	count(&counters->errors, 1);
	key.number = begun->call.number;
	key.compat = begun->call.compat;
	key.error = -result;
	error = syscall_errors_find(&key);
	if (error)
		count(&error->failures, 1);
	return 0;
}

/* Handle the exit of the current thread, by exit(2) or exit_group(2), which do not return, or by a signal. */
static __always_inline int on_thread_exit(void)
{
	__u64 task = bpf_get_current_task();
	struct syscalls_counters *counters;
	struct syscall_begun *begun;

	begun = bpf_map_lookup_elem(&syscalls_begun, &task);
	if (!begun)
		return 0;
	if (begun->began_ns) {
		counters = syscalls_find(&begun->call);
		if (counters)
			count(&counters->ended, 1);
	}
	bpf_map_delete_elem(&syscalls_begun, &task);
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(sys_enter_tp_btf, struct pt_regs *regs, long number)
{
	return on_enter(number);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit_tp_btf, struct pt_regs *regs, long result)
{
	return on_return(result);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(sched_process_exit_tp_btf)
{
	return on_thread_exit();
}

/* For kernels that can preempt programs at raw tracepoints. */
SEC("tp/raw_syscalls/sys_enter")
int sys_enter_tp(struct trace_event_raw_sys_enter *ctx)
{
	return on_enter(ctx->id);
}

SEC("tp/raw_syscalls/sys_exit")
int sys_exit_tp(struct trace_event_raw_sys_exit *ctx)
{
	return on_return(ctx->ret);
}

SEC("tp/sched/sched_process_exit")
int sched_process_exit_tp(void *ctx)
{
	return on_thread_exit();
}

char LICENSE[] SEC("license") = "GPL";
