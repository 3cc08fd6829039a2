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
 * Rows by something else than the process: KEYED_TABLE().
 *
 * Intervals.  Every table has two sides. Programs write to the one that ebpfmon_interval names; user space
 * names the other, waits until no program can still be at the first (an RCU grace period, which the kernel
 * itself waits for when an element of a map of maps is replaced), and then has the first side to itself: rows
 * *and* totals of one side belong to the same interval, to the call.
 *
 * Programs.  A program's name is EVENT__STRATEGY__TARGET, made by the macros in loaders.bpf.h; which events there
 * are, and how each can be seen, is read from the object.
 *
 * Maps are named as MAP(name), kernel memory is read with READ() or LOAD(): so the source serves libbpf and BCC. */
#ifndef EBPFMON_BPF_H
#define EBPFMON_BPF_H

#include "loaders.bpf.h"

KNOB(__u32, cfg_rows);		/* keep rows by process, not totals alone */
KNOB(__u32, cfg_return);	/* load mode: count errors too */
KNOB(__u32, cfg_gather);	/* each CPU gathers: see STEM_slots_in_task() */
KNOB(__u32, cfg_may_cast);	/* this kernel has bpf_rdonly_cast(): see UNTRUSTED() */
KNOB(__u32, cfg_may_read);	/* kernel memory may be read by helpers: false under lockdown=confidentiality */

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

/* A global variable, which a program reads without a lookup; it is the only element of a map all the same. */
#ifndef BCC
volatile __u32 ebpfmon_interval SEC(".data.interval");
#endif

static __always_inline __u32 interval_side(void)
{
#ifdef BCC
	__u32 zero = 0, *side = bpf_map_lookup_elem(MAP(data_interval), &zero);

	return side ? *side & 1 : 0;
#else
	return ebpfmon_interval & 1;
#endif
}

/* The current task's key: the way every counted call goes. */
static __always_inline void current_process(struct process_key *key)
{
	void *task = CURRENT_TASK(), *leader = 0;

	LOAD(CURRENT_IS_TYPED, leader, task, struct task_struct, group_leader);
	LOAD(CURRENT_IS_TYPED, key->start_ns, leader, struct task_struct, start_boottime);
	LOAD(CURRENT_IS_TYPED, key->tgid, task, struct task_struct, tgid);
	LOAD(CURRENT_IS_TYPED, key->exec_id, task, struct task_struct, self_exec_id);
}

/* `typed`: the verifier knows that `task` is one (see LOAD). */
static __always_inline void identify(void *task, struct process_identity *who, const bool typed)
{
	void *leader = 0, *parent = 0, *cred = 0, *css = 0, *cgroup = 0, *kn = 0;

	if (typed)
		task = UNTRUSTED(task, struct task_struct);
	LOAD(typed, leader, task, struct task_struct, group_leader);
	LOAD(typed, parent, leader, struct task_struct, real_parent);
	LOAD(typed, who->parent_tgid, parent, struct task_struct, tgid);
	LOAD(typed, cred, task, struct task_struct, cred);
	LOAD(typed, who->uid, cred, struct cred, uid.val);
	LOAD(typed, css, task, struct task_struct, cgroups);
	LOAD(typed, cgroup, css, struct css_set, dfl_cgrp);
	LOAD(typed, kn, cgroup, struct cgroup, kn);
	LOAD(typed, who->cgroup_id, kn, struct kernfs_node, id);
	if (!typed) {
		READ_STRING(who->comm, leader, struct task_struct, comm);
		return;
	}
#ifndef BCC
	/* up to its end alone: before Linux 5.17 the rest of a former, longer name stands behind that */
#pragma unroll
	for (int i = 0; i < TASK_COMM_LEN; i++) {
		char next = ((struct task_struct *)leader)->comm[i];

		if (!next)
			break;
		who->comm[i] = next;
	}
#endif
}

#ifdef BCC
/* What the kernel's headers say of a task, against what the kernel itself says: with another kernel's headers every
 * offset may be wrong, and nothing else would tell. The loader runs this before it trusts the compiled programs. */
struct self_check {
	__u64 checked, wrong_tgid, wrong_comm, wrong_cgroup, wrong_start;
};

int ebpfmon_self_check(void *ctx)
{
	__u32 zero = 0;
	struct self_check *found = bpf_map_lookup_elem(MAP(ebpfmon_self_check), &zero);
	void *task = (void *)bpf_get_current_task();
	struct process_identity who = {};
	struct process_key key = {};
	char comm[TASK_COMM_LEN] = {}, read[TASK_COMM_LEN] = {};

	if (!found)
		return 0;
	current_process(&key);
	identify(task, &who, false);
	bpf_get_current_comm(comm, sizeof(comm));
	READ_STRING(read, task, struct task_struct, comm);
	if (key.tgid != bpf_get_current_pid_tgid() >> 32)
		__sync_fetch_and_add(&found->wrong_tgid, 1);
	if (*(__u64 *)comm != *(__u64 *)read)
		__sync_fetch_and_add(&found->wrong_comm, 1);
	if (who.cgroup_id != bpf_get_current_cgroup_id())
		__sync_fetch_and_add(&found->wrong_cgroup, 1);
	if (key.start_ns > bpf_ktime_get_boot_ns())
		__sync_fetch_and_add(&found->wrong_start, 1);
	__sync_fetch_and_add(&found->checked, 1);
	return 0;
}
#endif

#include "tables.bpf.h"

/* Histograms.  A counter may be an array, of which each element counts the values of one size:
 *
 *	struct hello_counters { __u64 calls, time_ns, latency[24]; };
 *	ADD_SLOT(&to, latency, log2_slot(ns, 250, 24));
 *
 * Slot 0 is for values of up to `unit`, 1 for up to twice that, 2 for up to four times that ..., the last one for all
 * that are greater: in Python `Buckets.log2("latency", slots=24, first=0.25, units="microseconds")` says so.
 *
 * Levels.  What is (requests in flight, bytes that wait), not what happened, is counted as what begins and what ends:
 * two counters, whose difference user space keeps (`Kind.LEVEL`). So it belongs to the interval to the unit, whichever
 * CPUs see the two. Count the end of that alone whose beginning you counted: whoever keeps when it began knows. */
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

#define ADD_SLOT(to, field, slot)                                                    \
	add_slot((to)->n->field, slot, sizeof((to)->n->field) / sizeof(__u64))

/* The verifier is shown the bound where it matters: before Linux 5.16 it forgets that of a number on the stack. */
static __always_inline void add_slot(__u64 *first, __u32 slot, const __u32 slots)
{
	asm volatile("" : "+r"(slot));
	if (slot < slots)
		__sync_fetch_and_add(&first[slot], 1);
}

/* Atomic: a process has threads, and a program may be preempted on its CPU by another task's. */
#define ADD(to, field, amount) __sync_fetch_and_add(&(to)->n->field, amount)

#endif
