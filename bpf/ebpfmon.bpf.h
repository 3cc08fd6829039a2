/* SPDX-License-Identifier: GPL-2.0-only */
/* The main BPF header. The C file of every ebpfmon probe includes it.
 *
 * Tables.  A probe counts in tables. Each table is made by an include template: process_table.bpf.h makes one with a
 * row for each process, keyed_table.bpf.h one with a row for each value of a key that the probe defines. count() adds
 * to a counter of a row.
 *
 * Intervals.  Every table has two buffers. Programs write to the buffer that ebpfmon_interval selects. At the end of an
 * interval, user space selects the other buffer and waits for an RCU grace period, after which no program can still be
 * writing to the first. (The kernel waits for one when an element of a map of maps is replaced.) The rows and totals
 * that user space then reads belong to exactly one interval.
 *
 * Programs.  They are written as for libbpf; see loaders.bpf.h. `Probe.events`, in Python, lists the programs of each
 * event. */
#ifndef EBPFMON_BPF_H
#define EBPFMON_BPF_H

#include "loaders.bpf.h"

const volatile __u32 cfg_rows = 0;	/* count in rows by process; 0: in the totals only */
const volatile __u32 cfg_return = 0;	/* load mode "return": count errors too */
const volatile __u32 cfg_cache = 0;	/* use per-CPU caches: see process_table.bpf.h */
const volatile __u32 cfg_may_read = 0;	/* helpers may read kernel memory; 0 under lockdown=confidentiality */

/* Identifies a process and the program that it runs. The kernel reuses the tgid of a process that has ended, and
 * execve(2) starts another program under the same tgid, so the key includes the start time and the number of execs. */
struct process_key {
	__u64 start_ns;		/* time from boot to the start of the thread group's leader */
	__u32 tgid;
	__u32 exec_id;
};
_Static_assert(sizeof(struct process_key) == 16, "process_key has no padding");

/* Facts about the process of a row, read when its first call of the interval was counted. */
struct process_identity {
	__u64 cgroup_id;
	__u32 parent_tgid;
	__u32 uid;
	char comm[TASK_COMM_LEN];
};
_Static_assert(sizeof(struct process_identity) == 32, "process_identity has no padding");

#ifdef BCC

static __always_inline __u32 current_buffer(void)
{
	__u32 zero = 0, *buffer = bpf_map_lookup_elem((void *)bpf_pseudo_fd(1, MAP_data_interval), &zero);

	return buffer ? *buffer & 1 : 0;
}

#else

/* Programs read a global variable without a map lookup. */
volatile __u32 ebpfmon_interval SEC(".data.interval");

static __always_inline __u32 current_buffer(void)
{
	return ebpfmon_interval & 1;
}

#endif

/* Add to a counter. Atomic, because threads of a process share its row, and one program may preempt another. */
static __always_inline void count(__u64 *counter, __u64 amount)
{
	__sync_fetch_and_add(counter, amount);
}

static __always_inline void read_process_key(struct process_key *key, struct task_struct *task, const bool typed)
{
	struct task_struct *leader = READ_FIELD(task, group_leader, typed);

	key->start_ns = READ_FIELD(leader, start_boottime, typed);
	key->tgid = READ_FIELD(task, tgid, typed);
	key->exec_id = READ_FIELD(task, self_exec_id, typed);
}

/* Read the key of the current process. */
static __always_inline void current_process(struct process_key *key)
{
	if (CURRENT_IS_TYPED)
		read_process_key(key, this_task(), true);
	else
		read_process_key(key, this_task(), false);
}

static __always_inline void read_comm(char *comm, struct task_struct *leader, const bool typed)
{
	if (!typed) {
		READ_STRING(*(char (*)[TASK_COMM_LEN])comm, leader, comm);
		return;
	}
#ifndef BCC
	/* Stop at the NUL: before Linux 5.17, the rest of an earlier, longer name may follow it. */
#pragma unroll
	for (int i = 0; i < TASK_COMM_LEN; i++) {
		char next = leader->comm[i];

		if (!next)
			break;
		comm[i] = next;
	}
#endif
}

static __always_inline void read_process_identity(struct process_identity *identity, struct task_struct *task,
						  const bool typed)
{
	struct task_struct *leader = READ_FIELD(task, group_leader, typed);
	struct task_struct *parent = READ_FIELD(leader, real_parent, typed);
	struct css_set *css = READ_FIELD(task, cgroups, typed);
	struct cgroup *cgroup = READ_FIELD(css, dfl_cgrp, typed);
	struct kernfs_node *kn = READ_FIELD(cgroup, kn, typed);

	identity->parent_tgid = READ_FIELD(parent, tgid, typed);
	identity->uid = READ_FIELD(READ_FIELD(task, cred, typed), uid.val, typed);
	identity->cgroup_id = READ_FIELD(kn, id, typed);
	read_comm(identity->comm, leader, typed);
}

/* Fill in an identity, which must be zeroed, from a task. */
static __always_inline void identify(struct process_identity *identity, struct task_struct *task, const bool typed)
{
	if (typed)
		read_process_identity(identity, UNTRUSTED(task), true);
	else
		read_process_identity(identity, task, false);
}

#ifdef BCC
/* Compare what the programs read from the current task with what helpers return. If BCC used the headers of another
 * kernel, any offset may be wrong, and nothing else would reveal it. The loader runs this before it attaches the
 * compiled programs. */
struct self_check {
	__u64 checked, wrong_tgid, wrong_comm, wrong_cgroup, wrong_start;
};

int ebpfmon_self_check(void *ctx)
{
	__u32 zero = 0;
	struct self_check *result = bpf_map_lookup_elem((void *)bpf_pseudo_fd(1, MAP_ebpfmon_self_check), &zero);
	struct task_struct *task = this_task();
	struct process_identity identity = {};
	struct process_key key = {};
	char comm[TASK_COMM_LEN] = {}, read[TASK_COMM_LEN] = {};

	if (!result)
		return 0;
	current_process(&key);
	identify(&identity, task, false);
	bpf_get_current_comm(comm, sizeof(comm));
	READ_STRING(read, task, comm);
	if (key.tgid != bpf_get_current_pid_tgid() >> 32)
		count(&result->wrong_tgid, 1);
	if (*(__u64 *)comm != *(__u64 *)read)
		count(&result->wrong_comm, 1);
	if (identity.cgroup_id != bpf_get_current_cgroup_id())
		count(&result->wrong_cgroup, 1);
	if (key.start_ns > bpf_ktime_get_boot_ns())
		count(&result->wrong_start, 1);
	count(&result->checked, 1);
	return 0;
}
#endif

/* Histograms.  A counter may be an array. Each element (slot) then counts the values in one range:
 *
 *	struct hello_counters { __u64 calls, time_ns, latency[24]; };
 *	count_slot(counters->latency, log2_slot(ns, 250, 24), 24);
 *
 * Slot 0 counts values up to `unit`, slot 1 up to twice that, slot 2 up to four times that, and so on; the last slot
 * counts all greater values. The matching declaration in Python is
 * `Buckets.log2("latency", slots=24, first=0.25, units="microseconds")`.
 *
 * Gauges.  To count what is in progress (requests in flight, bytes waiting), use two counters, one for beginnings and
 * one for ends. User space keeps their difference, which is exact in every interval even if beginning and end happen on
 * different CPUs. Count an end only if its beginning was counted; the map that stores the start time shows that. */
static __always_inline __u32 log2_slot(__u64 value, const __u64 unit, const __u32 slots)
{
	__u64 rest = value ? (value - 1) / unit : 0;
	__u32 slot = 0;

	/* The slot is the number of bits of `rest`. */
	if (rest >> 32) { rest >>= 32; slot += 32; }
	if (rest >> 16) { rest >>= 16; slot += 16; }
	if (rest >> 8) { rest >>= 8; slot += 8; }
	if (rest >> 4) { rest >>= 4; slot += 4; }
	if (rest >> 2) { rest >>= 2; slot += 2; }
	if (rest >> 1) { rest >>= 1; slot += 1; }
	slot += rest;
	return slot < slots ? slot : slots - 1;
}

static __always_inline void count_slot(__u64 *counters, __u32 slot, const __u32 slots)
{
	/* Keep the bounds check next to the access: before Linux 5.16, the verifier forgets the bound of a value that
	 * the compiler spills to the stack. */
	asm volatile("" : "+r"(slot));
	if (slot < slots)
		count(&counters[slot], 1);
}

/* For the include templates: if TABLE is hello, TABLE_NAME(rows) is hello_rows. */
#define TABLE_NAME(suffix) TABLE_JOIN_(TABLE, suffix)
#define TABLE_JOIN_(table, suffix) TABLE_PASTE_(table, suffix)
#define TABLE_PASTE_(table, suffix) table##_##suffix

#endif
