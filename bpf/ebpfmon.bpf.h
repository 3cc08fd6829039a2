/* SPDX-License-Identifier: GPL-2.0-only */
/* The runtime headers: what the C file of every ebpfmon probe includes.
 *
 * Tables.  A probe counts into tables, each made by an include template: process_table.bpf.h has a row for each process,
 * keyed_table.bpf.h one for each key of the author's own. count() counts in a row.
 *
 * Intervals.  Every table has two buffers. Programs write to the one that ebpfmon_interval names; user space names the
 * other, waits until no program can still write to the first (an RCU grace period: the kernel itself waits for one when
 * an element of a map of maps is replaced), and then has the first buffer to itself. So its rows *and* its totals belong
 * to the same interval, to the call.
 *
 * Programs.  They are written as for libbpf (see loaders.bpf.h), and Python says which programs see which event:
 * `Probe.events`. */
#ifndef EBPFMON_BPF_H
#define EBPFMON_BPF_H

#include "loaders.bpf.h"

const volatile __u32 cfg_rows = 0;	/* keep rows by process, not totals alone */
const volatile __u32 cfg_return = 0;	/* load mode: count errors too */
const volatile __u32 cfg_cache = 0;	/* use per-CPU caches: see process_table.bpf.h */
const volatile __u32 cfg_may_read = 0;	/* helpers may read kernel memory: not under lockdown=confidentiality */

/* Which process, exactly. A tgid is used again after its process has ended, and execve(2) makes another program of the
 * same tgid, so the start of the process and the number of its execs belong to the key. */
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

#ifdef BCC

static __always_inline __u32 current_buffer(void)
{
	__u32 zero = 0, *buffer = bpf_map_lookup_elem((void *)bpf_pseudo_fd(1, MAP_data_interval), &zero);

	return buffer ? *buffer & 1 : 0;
}

#else

/* A global variable, which a program reads without a lookup. */
volatile __u32 ebpfmon_interval SEC(".data.interval");

static __always_inline __u32 current_buffer(void)
{
	return ebpfmon_interval & 1;
}

#endif

/* Atomic: a process has threads, and on its CPU a program may be preempted by another task's. */
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

/* The current task's key: every counted call needs it. */
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
	/* Only up to its end: before Linux 5.17 the rest of a former, longer name follows. */
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

/* Fill in a zeroed identity from a task. */
static __always_inline void identify(struct process_identity *identity, struct task_struct *task, const bool typed)
{
	if (typed)
		read_process_identity(identity, UNTRUSTED(task), true);
	else
		read_process_identity(identity, task, false);
}

#ifdef BCC
/* What the kernel's headers say of a task, compared with what the kernel itself says: with another kernel's headers every
 * offset may be wrong, and nothing else would tell. The loader runs this before it trusts the compiled programs. */
struct self_check {
	__u64 checked, wrong_tgid, wrong_comm, wrong_cgroup, wrong_start;
};

int ebpfmon_self_check(void *ctx)
{
	__u32 zero = 0;
	struct self_check *found = bpf_map_lookup_elem((void *)bpf_pseudo_fd(1, MAP_ebpfmon_self_check), &zero);
	struct task_struct *task = this_task();
	struct process_identity identity = {};
	struct process_key key = {};
	char comm[TASK_COMM_LEN] = {}, read[TASK_COMM_LEN] = {};

	if (!found)
		return 0;
	current_process(&key);
	identify(&identity, task, false);
	bpf_get_current_comm(comm, sizeof(comm));
	READ_STRING(read, task, comm);
	if (key.tgid != bpf_get_current_pid_tgid() >> 32)
		count(&found->wrong_tgid, 1);
	if (*(__u64 *)comm != *(__u64 *)read)
		count(&found->wrong_comm, 1);
	if (identity.cgroup_id != bpf_get_current_cgroup_id())
		count(&found->wrong_cgroup, 1);
	if (key.start_ns > bpf_ktime_get_boot_ns())
		count(&found->wrong_start, 1);
	count(&found->checked, 1);
	return 0;
}
#endif

/* Histograms.  A counter may be an array. Each element then counts the values of one range:
 *
 *	struct hello_counters { __u64 calls, time_ns, latency[24]; };
 *	count_slot(counters->latency, log2_slot(ns, 250, 24), 24);
 *
 * Slot 0 is for values of up to `unit`, 1 for up to twice that, 2 for up to four times that ..., the last one for all
 * that are greater. In Python `Buckets.log2("latency", slots=24, first=0.25, units="microseconds")` says so.
 *
 * Gauges.  Count what is under way (requests in flight, bytes that wait) with two counters, one for beginnings and one for
 * ends. User space keeps their difference, which is exact in every interval, whichever CPUs see the beginning and the
 * end. Count an end only if you counted its beginning: the map that keeps when it began tells. */
static __always_inline __u32 log2_slot(__u64 value, const __u64 unit, const __u32 slots)
{
	__u64 rest = value ? (value - 1) / unit : 0;
	__u32 slot = 0;

	/* how many bits it has */
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
	/* The verifier is shown the bound where it matters: before Linux 5.16 it forgets that of a number on the stack. */
	asm volatile("" : "+r"(slot));
	if (slot < slots)
		count(&counters[slot], 1);
}

/* For the include templates: TABLE_NAME(rows) is hello_rows where TABLE is hello. */
#define TABLE_NAME(suffix) TABLE_JOIN_(TABLE, suffix)
#define TABLE_JOIN_(table, suffix) TABLE_PASTE_(table, suffix)
#define TABLE_PASTE_(table, suffix) table##_##suffix

#endif
