/* SPDX-License-Identifier: GPL-2.0-only */
/* The kit: what every ebpfmon probe's C file includes.
 *
 * Tables.  A probe counts into a table by process:
 *
 *	struct hello_counters { __u64 calls; };
 *	PROCESS_TABLE(hello, 16384);
 *
 * which makes `struct hello_row` (who, and the counters), the interval maps, the totals, and
 * hello_slots(), which says where the current process's call is to be counted. ADD() counts.
 * Counters are __u64 and only grow.
 *
 * Intervals.  Every table has two sides. Programs write to the one that ebpfmon_interval names; user space
 * names the other, waits until no program can still be at the first (an RCU grace period, which the kernel
 * itself waits for when an element of a map of maps is replaced), and then has the first side to itself: rows
 * *and* totals of one side belong to the same interval, to the call.
 *
 * Programs.  A program's name is EVENT__STRATEGY__TARGET, made by the macros at the end; which events there
 * are, and how each can be seen, is read from the object. */
#ifndef EBPFMON_BPF_H
#define EBPFMON_BPF_H

#include "kernel_types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define LICENSE(name) char ebpfmon_license[] SEC("license") = name

/* A setting that user space writes before the load; what it turns off, the verifier removes. */
#define KNOB(type, name) const volatile type name = 0
#define READ(dst, ptr, type, field) bpf_core_read(&(dst), sizeof(dst), &((type *)(ptr))->field)

KNOB(__u32, cfg_rows);		/* keep rows by process, not totals alone */
KNOB(__u32, cfg_return);	/* load mode: count errors too */

/* Which process, exactly: a tgid is used again after its process ended, and execve(2) makes another
 * program of the same tgid, so the start of the process and the number of its execs belong to the key. */
struct process_key {
	__u64 start_ns;		/* of the thread group's leader, since boot */
	__u32 tgid;
	__u32 exec_id;
};
_Static_assert(sizeof(struct process_key) == 16, "process_key has no padding");

/* Who a row's process is, as known when the interval's first call was counted. */
struct process_identity {
	__u64 cgroup_id;
	__u32 parent_tgid;
	__u32 uid;
	char comm[TASK_COMM_LEN];
};
_Static_assert(sizeof(struct process_identity) == 32, "process_identity has no padding");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} ebpfmon_interval SEC(".maps");

static __always_inline __u32 interval_side(void)
{
	__u32 zero = 0, *side = bpf_map_lookup_elem(&ebpfmon_interval, &zero);

	return side ? *side & 1 : 0;
}

/* The current task's key: the way every counted call goes. */
static __always_inline void current_process(struct process_key *key)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)) {
		struct task_struct *task = (void *)bpf_get_current_task_btf();

		key->start_ns = task->group_leader->start_boottime;
		key->tgid = task->tgid;
		key->exec_id = task->self_exec_id;
	} else { /* Linux 3ca1032ab7ab ("bpf: Introduce bpf_get_current_task_btf()") came in v5.11 */
		void *task = (void *)bpf_get_current_task(), *leader = 0;

		READ(leader, task, struct task_struct, group_leader);
		READ(key->start_ns, leader, struct task_struct, start_boottime);
		READ(key->tgid, task, struct task_struct, tgid);
		READ(key->exec_id, task, struct task_struct, self_exec_id);
	}
}

/* Any task's key. When the last thread of a group is freed its leader may be gone already: a leader that is
 * not one any more is not believed, and the thread stands for itself. */
static __always_inline void process_of(void *task, struct process_key *key)
{
	void *leader = 0;
	__s32 leader_pid = 0;

	READ(key->tgid, task, struct task_struct, tgid);
	READ(key->exec_id, task, struct task_struct, self_exec_id);
	READ(leader, task, struct task_struct, group_leader);
	READ(leader_pid, leader, struct task_struct, pid);
	if ((__u32)leader_pid != key->tgid)
		leader = task;
	READ(key->start_ns, leader, struct task_struct, start_boottime);
}

static __always_inline void identify(void *task, struct process_identity *who)
{
	void *leader = 0, *parent = 0, *cred = 0, *css = 0, *cgroup = 0, *kn = 0;

	READ(leader, task, struct task_struct, group_leader);
	READ(parent, leader, struct task_struct, real_parent);
	READ(who->parent_tgid, parent, struct task_struct, tgid);
	READ(cred, task, struct task_struct, cred);
	READ(who->uid, cred, struct cred, uid.val);
	READ(css, task, struct task_struct, cgroups);
	READ(cgroup, css, struct css_set, dfl_cgrp);
	READ(kn, cgroup, struct cgroup, kn);
	READ(who->cgroup_id, kn, struct kernfs_node, id);
	bpf_core_read_str(who->comm, sizeof(who->comm), &((struct task_struct *)leader)->comm);
}

/* Rows are preallocated: an insertion then needs no memory, in whatever context the program runs. */
#define INTERVAL_TABLE(name, key_type, row_type, size)                               \
	struct name##_side {                                                         \
		__uint(type, BPF_MAP_TYPE_HASH);                                     \
		__uint(max_entries, size);                                           \
		__type(key, key_type);                                               \
		__type(value, row_type);                                             \
	};                                                                           \
	struct name##_side name##_0 SEC(".maps"), name##_1 SEC(".maps");             \
	struct {                                                                     \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);                            \
		__uint(max_entries, 2);                                              \
		__type(key, __u32);                                                  \
		__array(values, struct name##_side);                                 \
	} name SEC(".maps") = { .values = { &name##_0, &name##_1 } }

#define TOTALS(name, totals_type)                                                    \
	struct {                                                                     \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);                             \
		__uint(max_entries, 2); /* one element a side */                     \
		__type(key, __u32);                                                  \
		__type(value, totals_type);                                          \
	} name SEC(".maps")

/* A call is counted twice: in its CPU's totals, which nothing can fill, and in its process's row. Where the
 * table is full there is no row; `overflow` says how many calls found none. */
#define PROCESS_TABLE(stem, size)                                                    \
	struct stem##_row {                                                          \
		struct process_identity who;                                         \
		struct stem##_counters n;                                            \
	};                                                                           \
	struct stem##_totals {                                                       \
		struct stem##_counters n;                                            \
		__u64 overflow;                                                      \
	};                                                                           \
	struct stem##_slots {                                                        \
		struct stem##_counters *totals, *row;                                \
	};                                                                           \
	INTERVAL_TABLE(stem##_rows, struct process_key, struct stem##_row, size);    \
	TOTALS(stem##_totals, struct stem##_totals);                                 \
	static const struct stem##_row stem##_no_row;                                \
                                                                                     \
	static __always_inline struct stem##_row *stem##_new_row(                    \
		void *rows, struct process_key *key, void *task)                     \
	{                                                                            \
		struct stem##_row *row;                                              \
		long taken = bpf_map_update_elem(rows, key, &stem##_no_row, BPF_NOEXIST); \
                                                                                     \
		row = bpf_map_lookup_elem(rows, key);                                \
		if (row && !taken)                                                   \
			identify(task, &row->who);                                   \
		return row;                                                          \
	}                                                                            \
                                                                                     \
	/* Where to count a call of `task`, or of the current task if that is 0. */  \
	static __always_inline bool stem##_slots_of(struct stem##_slots *to, void *task) \
	{                                                                            \
		__u32 side = interval_side();                                        \
		struct process_key key = {};                                         \
		struct stem##_totals *totals;                                        \
		struct stem##_row *row;                                              \
		void *rows;                                                          \
                                                                                     \
		totals = bpf_map_lookup_elem(&stem##_totals, &side);                 \
		if (!totals)                                                         \
			return false;                                                \
		to->totals = &totals->n;                                             \
		to->row = 0;                                                         \
		if (!cfg_rows)                                                       \
			return true;                                                 \
		if (task)                                                            \
			process_of(task, &key);                                      \
		else                                                                 \
			current_process(&key);                                       \
		rows = bpf_map_lookup_elem(&stem##_rows, &side);                     \
		if (!rows)                                                           \
			return true;                                                 \
		row = bpf_map_lookup_elem(rows, &key);                               \
		if (!row)                                                            \
			row = stem##_new_row(rows, &key, task ?: (void *)bpf_get_current_task()); \
		if (row)                                                             \
			to->row = &row->n;                                           \
		else                                                                 \
			__sync_fetch_and_add(&totals->overflow, 1);                  \
		return true;                                                         \
	}                                                                            \
                                                                                     \
	static __always_inline bool stem##_slots(struct stem##_slots *to)            \
	{                                                                            \
		return stem##_slots_of(to, 0);                                       \
	}                                                                            \
	_Static_assert(sizeof(struct stem##_counters) % 8 == 0, "counters are __u64")

/* Atomic on both: a process has threads, and a program may be preempted on its CPU by another task's. */
#define ADD(to, field, amount)                                                       \
	do {                                                                         \
		__sync_fetch_and_add(&(to)->totals->field, amount);                  \
		if ((to)->row)                                                       \
			__sync_fetch_and_add(&(to)->row->field, amount);             \
	} while (0)

/* Programs: each line sees EVENT by one strategy at one TARGET and calls HANDLER. In an object,
 * - several targets of an event and strategy are alternatives, taken in the order of the file;
 * - so are the strategies, kretprobes last: the first that the kernel allows is taken;
 * - programs that share event, strategy and target belong together. What follows the target in the name says
 *   more: `entry` and `return` are for that load mode alone, a number is how many arguments TARGET must have
 *   in this kernel (a fexit finds the result behind them), any other word just tells companions apart. */
#define FEXIT(event, target, nargs, handler)                                         \
	SEC("fexit/" #target)                                                        \
	int event##__trampoline__##target##__##nargs(__u64 *ctx)                     \
	{                                                                            \
		return handler(ctx[nargs]);                                          \
	}
#define FENTRY(event, target, handler)                                               \
	SEC("fentry/" #target)                                                       \
	int event##__trampoline__##target(__u64 *ctx)                                \
	{                                                                            \
		return handler((void *)ctx[0]);                                      \
	}
#define KPROBE(event, target, handler)                                               \
	SEC("kprobe/" #target)                                                       \
	int event##__kprobe__##target(struct pt_regs *ctx)                           \
	{                                                                            \
		return handler((void *)KPROBE_ARG1(ctx));                            \
	}
/* In `entry` mode a kprobe alone counts as well as a kretprobe, costs less and cannot be missed. */
#define KPROBE_OR_KRETPROBE(event, target, handler)                                  \
	SEC("kprobe/" #target)                                                       \
	int event##__kprobe__##target##__entry(struct pt_regs *ctx)                  \
	{                                                                            \
		return handler(0);                                                   \
	}                                                                            \
	SEC("kretprobe/" #target)                                                    \
	int event##__kprobe__##target##__return(struct pt_regs *ctx)                 \
	{                                                                            \
		return handler(KPROBE_RESULT(ctx));                                  \
	}
#define KRETPROBE(event, target, handler)                                            \
	SEC("kretprobe/" #target)                                                    \
	int event##__kprobe__##target(struct pt_regs *ctx)                           \
	{                                                                            \
		return handler(KPROBE_RESULT(ctx));                                  \
	}
#define TRACEPOINT(event, target, handler)                                           \
	SEC("tp_btf/" #target)                                                       \
	int event##__tracepoint__##target(__u64 *ctx)                                \
	{                                                                            \
		return handler(ctx);                                                 \
	}

/* One program at a busy tracepoint serves several events better than one each. SHARED_TRACEPOINT() is the
 * program; SEEN_AT() makes EVENT one of those that it can see, and is true in the program when it shall. */
#define SHARED_TRACEPOINT(target, handler)                                           \
	SEC("tp_btf/" #target)                                                       \
	int target(__u64 *ctx)                                                       \
	{                                                                            \
		return handler(ctx);                                                 \
	}
#define SEEN_AT(target, event) KNOB(__u8, event##__tracepoint__##target)
#define SEEN_AT_IN_RETURN_MODE(target, event) KNOB(__u8, event##__tracepoint__##target##__return)

#endif
