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

/* What decides the groups of a process. It can change while the process runs: see setuid(2), prctl(2), cgroups(7). */
struct process_identity {
	__u64 cgroup_id;
	__u32 parent_tgid;
	__u32 uid;			/* the effective user, which ps(1) shows */
	char comm[TASK_COMM_LEN];	/* the name of the thread group's leader, padded with NULs */
};
_Static_assert(sizeof(struct process_identity) == 32, "process_identity has no padding");

/* Who makes a call: a process, and what it is at that moment. This is the key of a process's row, so a process that
 * changes its user, its cgroup or its name has one row for what it did before and another for what it did after. */
struct caller {
	struct process_key process;
	struct process_identity identity;
};
_Static_assert(sizeof(struct caller) == 48, "caller has no padding");

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

static __always_inline void read_process_key(struct process_key *key, struct task_struct *task,
					     struct task_struct *leader, const bool typed)
{
	key->start_ns = READ_FIELD(leader, start_boottime, typed);
	key->tgid = READ_FIELD(task, tgid, typed);
	key->exec_id = READ_FIELD(task, self_exec_id, typed);
}

/* Read the key of the current process. */
static __always_inline void current_process(struct process_key *key)
{
	if (CURRENT_IS_TYPED)
		read_process_key(key, this_task(), READ_FIELD(this_task(), group_leader, true), true);
	else
		read_process_key(key, this_task(), READ_FIELD(this_task(), group_leader, false), false);
}

/* Read the name of a process. The rest of an earlier, longer name may follow its NUL; pad_comm() removes it. */
static __always_inline void read_comm(struct process_identity *identity, struct task_struct *leader, const bool typed)
{
#ifndef BCC
	if (typed) {
		__u64 *to = (void *)identity->comm, *from = (void *)leader->comm;

		to[0] = from[0];
		to[1] = from[1];
		return;
	}
#endif
	READ_STRING(identity->comm, leader, comm);
}

/* Replace what follows the NUL of a name by NULs. The kernel does so itself since Linux 5.17. */
static __always_inline void pad_comm(struct process_identity *identity)
{
	__u64 *words = (void *)identity->comm, ends;

	/* The lowest bit of `ends` is the highest bit of the first zero byte. */
	ends = (words[0] - 0x0101010101010101) & ~words[0] & 0x8080808080808080;
	if (ends) {
		words[0] &= (ends & -ends) - 1;
		words[1] = 0;
		return;
	}
	ends = (words[1] - 0x0101010101010101) & ~words[1] & 0x8080808080808080;
	if (ends)
		words[1] &= (ends & -ends) - 1;
}

/* The objective credentials, because the kernel overrides the others while it works for a process (overlayfs). */
static __always_inline __u32 uid_of(struct task_struct *task, const bool typed)
{
	return READ_FIELD(READ_FIELD(task, real_cred, typed), euid.val, typed);
}

static __always_inline __u32 parent_of(struct task_struct *leader, const bool typed)
{
	return READ_FIELD(READ_FIELD(leader, real_parent, typed), tgid, typed);
}

static __always_inline __u64 cgroup_of(struct task_struct *task, const bool typed)
{
	struct css_set *css = READ_FIELD(task, cgroups, typed);
	struct cgroup *cgroup = READ_FIELD(css, dfl_cgrp, typed);

	return READ_FIELD(READ_FIELD(cgroup, kn, typed), id, typed);
}

/* Fill in a caller from a task and the leader of its thread group. */
static __always_inline void read_caller(struct caller *caller, struct task_struct *task, struct task_struct *leader,
					const bool typed)
{
	read_process_key(&caller->process, task, leader, typed);
	caller->identity.cgroup_id = cgroup_of(task, typed);
	caller->identity.parent_tgid = parent_of(leader, typed);
	caller->identity.uid = uid_of(task, typed);
	read_comm(&caller->identity, leader, typed);
}

static __always_inline void identify_raw(struct caller *caller, struct task_struct *task, const bool typed)
{
	if (typed) {
		task = UNTRUSTED(task);
		read_caller(caller, task, READ_FIELD(task, group_leader, true), true);
	} else {
		read_caller(caller, task, READ_FIELD(task, group_leader, false), false);
	}
}

/* Fill in a caller, which must be zeroed, from a task. */
static __always_inline void identify(struct caller *caller, struct task_struct *task, const bool typed)
{
	identify_raw(caller, task, typed);
	pad_comm(&caller->identity);
}

/* Fill in a caller, which must be zeroed, from the current task. */
static __always_inline void current_caller(struct caller *caller)
{
	identify(caller, this_task(), CURRENT_IS_TYPED);
}

#ifndef BCC
static __always_inline bool is_caller(const struct caller *caller, const __u64 *raw_comm, struct task_struct *task,
				      const bool typed)
{
	struct task_struct *leader = READ_FIELD(task, group_leader, typed);
	struct process_identity identity = {};
	struct process_key key = {};
	__u64 *comm = (void *)identity.comm;

	read_process_key(&key, task, leader, typed);
	read_comm(&identity, leader, typed);
	return caller->process.start_ns == key.start_ns && caller->process.tgid == key.tgid &&
	       caller->process.exec_id == key.exec_id && caller->identity.uid == uid_of(task, typed) &&
	       raw_comm[0] == comm[0] && raw_comm[1] == comm[1] &&
	       caller->identity.cgroup_id == cgroup_of(task, typed);
}

/* Return whether the current task is still the same caller. `raw_comm` is its name before pad_comm(). A change of parent
 * does not matter, because the parent only helps to find out what the process is. */
static __always_inline bool is_current(const struct caller *caller, const __u64 *raw_comm)
{
	return CURRENT_IS_TYPED ? is_caller(caller, raw_comm, this_task(), true) :
				  is_caller(caller, raw_comm, this_task(), false);
}
#endif

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
	struct caller caller = {};
	char comm[TASK_COMM_LEN] = {}, read[TASK_COMM_LEN] = {};

	if (!result)
		return 0;
	current_caller(&caller);
	bpf_get_current_comm(comm, sizeof(comm));
	READ_STRING(read, task, comm);
	if (caller.process.tgid != bpf_get_current_pid_tgid() >> 32)
		count(&result->wrong_tgid, 1);
	if (*(__u64 *)comm != *(__u64 *)read)
		count(&result->wrong_comm, 1);
	if (caller.identity.cgroup_id != bpf_get_current_cgroup_id())
		count(&result->wrong_cgroup, 1);
	if (caller.process.start_ns > bpf_ktime_get_boot_ns())
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
