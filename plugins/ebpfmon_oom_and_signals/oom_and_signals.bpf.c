// SPDX-License-Identifier: GPL-2.0-only
/* Counts processes that die by a signal, and how many of these the OOM killer chose. */
#include "ebpfmon.bpf.h"

/* Processes that can die by a signal, or start the OOM killer, in one interval. Two buffers of 1,024 rows of 392 bytes,
 * key and hash table included, are 0.8 MB of kernel memory. The setting table_size overrides it. */
#define DEATHS 1024
/* Processes that died recently. They are remembered because two threads of a process can both appear to be its last.
 * Less than 0.1 MB. */
#define DYING 1024
#define SIGKILL 9
#define SIGNALS 32 /* 1 to 31 have names; 0 stands for the real-time signals, 32 to 64 */

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

/* Fields of task_struct that the BPF headers do not declare. libbpf ignores the suffix ___dying. */
struct task_struct___dying {
	int exit_code;
	struct signal_struct *signal;
};
#pragma clang attribute pop
#endif

struct signals_counters {
	__u64 deaths;		/* processes that died by any signal */
	__u64 oom_kills;	/* of these, processes that the OOM killer had chosen */
	__u64 oom_victims;	/* times that this process's request for memory made the OOM killer choose one */
	__u64 died_by[SIGNALS];	/* processes that died by each signal */
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

/* Return the signal that the process of an exiting task dies by: 0 if there is none, or if the process has threads
 * left. At this point the exit code is the one that wait(2) will report, and the task no longer counts as a live
 * thread. */
static __always_inline __u32 fatal_signal(struct task_struct *current, const bool typed)
{
	struct task_struct___dying *task = (void *)current;
	__u32 number = READ_FIELD(task, exit_code, typed) & 0x7f;
	struct signal_struct *signal;

	if (!number)
		return 0;
	signal = READ_FIELD(task, signal, typed);
	return READ_FIELD(signal, live.counter, typed) ? 0 : number;
}

static __always_inline bool is_oom_victim(struct task_struct *current, const bool typed)
{
	struct task_struct___dying *task = (void *)current;
	struct signal_struct *signal = READ_FIELD(task, signal, typed);

	return READ_FIELD(signal, oom_mm, typed);
}

/* Handle the exit of the current thread. If two threads exit at once, both may find no live thread left, but only one
 * of them counts the process. */
static __always_inline int on_exit(void)
{
	__u32 number = CURRENT_IS_TYPED ? fatal_signal(this_task(), true) : fatal_signal(this_task(), false), one = 1;
	struct signals_counters *counters;
	struct process_key key = {};

	if (!number)
		return 0;
	current_process(&key);
	if (bpf_map_update_elem(&signals_dying, &key, &one, BPF_NOEXIST))
		return 0;
	counters = signals_find();
	if (!counters)
		return 0;
	count(&counters->deaths, 1);
	count_slot(counters->died_by, number < SIGNALS ? number : 0, SIGNALS);
	if (number != SIGKILL)
		return 0;
	if (CURRENT_IS_TYPED ? is_oom_victim(this_task(), true) : is_oom_victim(this_task(), false))
		count(&counters->oom_kills, 1);
	return 0;
}

/* Handle the OOM killer's choice of a process. The current process is the one that requested memory. */
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
