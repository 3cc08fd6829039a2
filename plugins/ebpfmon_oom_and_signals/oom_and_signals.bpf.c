// SPDX-License-Identifier: GPL-2.0-only
/* Which processes die by a signal, and which of them because the kernel had no memory left for them. */
#include "ebpfmon.bpf.h"

/* Processes that die by a signal, or ask for memory that there is not, in one interval. Two buffers of 1,024 rows of 368
 * bytes, key and hash element included, are 0.8 MB of kernel memory. The setting table_size changes it. */
#define DEATHS 1024
/* Processes of which one thread has been seen to be the last: that can be two at a time. Less than 0.1 MB. */
#define DYING 1024
#define SIGKILL 9
#define SIGNALS 32 /* 1 to 31 are signals that have a name; 0 is for the real-time ones, 32 to 64 */

#ifdef BCC
#pragma ebpfmon include <linux/sched/signal.h>
#define task_struct___dying task_struct
#else
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct threads_left {
	int counter;
};

struct signal_struct {
	struct threads_left live;
	void *oom_mm;
};

/* What the BPF headers do not read of a task: libbpf looks for it in the kernel's task_struct. */
struct task_struct___dying {
	int exit_code;
	struct signal_struct *signal;
};
#pragma clang attribute pop
#endif

struct signals_counters {
	__u64 deaths;		/* processes that died by any signal */
	__u64 oom_kills;	/* ... of which because the kernel's OOM killer chose them */
	__u64 oom_victims;	/* times that a process asked for memory and another, or itself, was chosen for it */
	__u64 died_by[SIGNALS];
};

#define TABLE signals
#define TABLE_SIZE DEATHS
#include "process_table.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, DYING);
	__type(key, struct process_key);
	__type(value, __u32);
} signals_dying SEC(".maps");

/* By which signal the process of a task that exits dies with it: 0 if by none, or if it has threads left. By then the exit
 * code is what wait(2) will tell, and the task is no longer counted among its process's threads. */
static __always_inline __u32 dies_by(struct task_struct *current, const bool typed)
{
	struct task_struct___dying *task = (void *)current;
	__u32 by = READ_FIELD(task, exit_code, typed) & 0x7f;
	struct signal_struct *signal;

	if (!by)
		return 0;
	signal = READ_FIELD(task, signal, typed);
	return READ_FIELD(signal, live.counter, typed) ? 0 : by;
}

static __always_inline bool is_oom_victim(struct task_struct *current, const bool typed)
{
	struct task_struct___dying *task = (void *)current;
	struct signal_struct *signal = READ_FIELD(task, signal, typed);

	return READ_FIELD(signal, oom_mm, typed);
}

/* The current thread exits. Two that exit at once may both find no thread left, and one of them counts. */
static __always_inline int on_exit(void)
{
	__u32 by = CURRENT_IS_TYPED ? dies_by(this_task(), true) : dies_by(this_task(), false), one = 1;
	struct signals_counters *counters;
	struct process_key key = {};

	if (!by)
		return 0;
	current_process(&key);
	if (bpf_map_update_elem(&signals_dying, &key, &one, BPF_NOEXIST))
		return 0;
	counters = signals_find();
	if (!counters)
		return 0;
	count(&counters->deaths, 1);
	count_slot(counters->died_by, by < SIGNALS ? by : 0, SIGNALS);
	if (by != SIGKILL)
		return 0;
	if (CURRENT_IS_TYPED ? is_oom_victim(this_task(), true) : is_oom_victim(this_task(), false))
		count(&counters->oom_kills, 1);
	return 0;
}

/* The current process is who asked for memory. */
static __always_inline int on_mark_victim(void)
{
	struct signals_counters *counters = signals_find();

	if (counters)
		count(&counters->oom_victims, 1);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(sched_process_exit_tp_btf)
{
	return on_exit();
}

SEC("tp/sched/sched_process_exit")
int sched_process_exit_tp(void *ctx)
{
	return on_exit();
}

SEC("tp_btf/mark_victim")
int BPF_PROG(mark_victim_tp_btf)
{
	return on_mark_victim();
}

SEC("tp/oom/mark_victim")
int mark_victim_tp(void *ctx)
{
	return on_mark_victim();
}

char LICENSE[] SEC("license") = "GPL";
