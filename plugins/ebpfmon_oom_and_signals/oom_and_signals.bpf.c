// SPDX-License-Identifier: GPL-2.0-only
/* Which processes die by a signal, and which of them as the kernel had no memory left for them. */
#include "ebpfmon.bpf.h"

/* Processes that die by a signal, or ask for memory that there is not, in one interval. Two sides of 1,024 rows of 368
 * bytes, key and hash element included, are 0.8 MB of kernel memory. The setting table_size changes it. */
#define DEATHS 1024
/* Processes of which one thread has been seen to be the last: that can be two at a time. Less than 0.1 MB. */
#define DYING 1024
#define SIGKILL 9
#define SIGNALS 32 /* 1 to 31 are signals that have a name; 0 is for the real-time ones, 32 to 64 */

#ifdef BCC
#pragma ebpfmon include <linux/sched/signal.h>
#define THREADS_LEFT live.counter
#define TASK struct task_struct
#else
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct threads_left {
	int counter;
};

struct signal_struct {
	struct threads_left live;
	void *oom_mm;
};

/* What the kit does not read of a task: libbpf looks for it in the kernel's task_struct. */
struct task_struct___dying {
	int exit_code;
	struct signal_struct *signal;
};
#pragma clang attribute pop
#define TASK struct task_struct___dying
#endif

struct signals_counters {
	__u64 deaths;		/* processes that died by any signal */
	__u64 oom_kills;	/* ... of which as the kernel's OOM killer chose them */
	__u64 oom_victims;	/* times that a process asked for memory and another, or itself, was chosen for it */
	__u64 died_by[SIGNALS];
};

PROCESS_TABLE(signals, DEATHS);

#ifndef BCC
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, DYING);
	__type(key, struct process_key);
	__type(value, __u32);
} signals_dying SEC(".maps");
#endif

/* The current thread exits. By then its exit code is what wait(2) will tell, and it is no longer counted among its
 * process's threads: the last one finds none. Two that exit at once may both do so, and one of them counts. */
static __always_inline int on_exit(void)
{
	void *task = CURRENT_TASK(), *signal = 0, *oom_mm = 0;
	struct process_key key = {};
	struct signals_slots to;
	int code = 0, left = 0;
	__u32 by, one = 1;

	LOAD(CURRENT_IS_TYPED, code, task, TASK, exit_code);
	by = code & 0x7f;
	if (!by)
		return 0;
	LOAD(CURRENT_IS_TYPED, signal, task, TASK, signal);
	LOAD(CURRENT_IS_TYPED, left, signal, struct signal_struct, live.counter);
	if (left)
		return 0;
	current_process(&key);
	if (bpf_map_update_elem(MAP(signals_dying), &key, &one, BPF_NOEXIST))
		return 0;
	if (!signals_slots(&to))
		return 0;
	ADD(&to, deaths, 1);
	ADD_SLOT(&to, died_by, by < SIGNALS ? by : 0);
	LOAD(CURRENT_IS_TYPED, oom_mm, signal, struct signal_struct, oom_mm);
	if (by == SIGKILL && oom_mm)
		ADD(&to, oom_kills, 1);
	return 0;
}

static __always_inline int on_sched_process_exit(void *ctx)
{
	return on_exit();
}
TRACEPOINT(process_death, sched_process_exit, on_sched_process_exit)
CLASSIC_TRACEPOINT(process_death, sched, sched_process_exit, on_sched_process_exit)

/* The current process is who asked for memory. */
static __always_inline int on_mark_victim(void *ctx)
{
	struct signals_slots to;

	if (signals_slots(&to))
		ADD(&to, oom_victims, 1);
	return 0;
}
TRACEPOINT(oom_victim, mark_victim, on_mark_victim)
CLASSIC_TRACEPOINT(oom_victim, oom, mark_victim, on_mark_victim)

LICENSE("GPL");
