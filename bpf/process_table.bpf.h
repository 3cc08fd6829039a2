/* SPDX-License-Identifier: GPL-2.0-only */
/* Include template: a table with one row for each process that was active in the interval.
 *
 *	struct hello_counters {		// __u64 that only grow
 *		__u64 calls;
 *	};
 *	#define TABLE hello
 *	#define TABLE_SIZE 16384	// rows per interval, 16384 by default
 *	#include "process_table.bpf.h"
 *
 * This makes the table's maps, and functions that return the counters for a call, or 0 if the call cannot be counted:
 *
 *	hello_find()		the counters of the current process
 *	hello_find_cached()	the same, but much cheaper; only in task context, never in interrupts
 *	hello_find_for(&caller)	the counters of another process
 *
 * The key of a row is a struct caller. A process that changes its user, its cgroup or its name in the middle of an
 * interval therefore has several rows, and each call counts for what the process was when it made the call.
 *
 * If the table is full, the functions return the totals and count an overflow. If cfg_rows is 0, they always return the
 * totals. */

#define TABLE_KEY struct caller
#define TABLE_ROW struct TABLE_NAME(counters)
#include "table_maps.bpf.h"
#undef TABLE_KEY
#undef TABLE_ROW

/* Return the counters of a caller's row, after adding the row if there is none yet; 0 if the table is full. */
SUBPROGRAM struct TABLE_NAME(counters) *TABLE_NAME(find_or_add)(void *rows, struct caller *caller)
{
	struct TABLE_NAME(counters) fresh = {}, *counters = bpf_map_lookup_elem(rows, caller);

	if (counters)
		return counters;
	bpf_map_update_elem(rows, caller, &fresh, BPF_NOEXIST); /* Another CPU may insert the row first. */
	return bpf_map_lookup_elem(rows, caller);
}

static __always_inline struct TABLE_NAME(counters) *TABLE_NAME(find_for)(struct caller *caller)
{
	struct TABLE_NAME(counters) *counters;
	__u32 buffer = current_buffer();
	void *rows;

	if (!cfg_rows)
		return TABLE_NAME(without_row)(buffer, false);
	rows = bpf_map_lookup_elem(&TABLE_NAME(rows), &buffer);
	if (!rows)
		return 0;
	counters = TABLE_NAME(find_or_add)(rows, caller);
	return counters ? counters : TABLE_NAME(without_row)(buffer, true);
}

static __always_inline struct TABLE_NAME(counters) *TABLE_NAME(find)(void)
{
	struct caller caller = {};

	if (cfg_rows)
		current_caller(&caller);
	return TABLE_NAME(find_for)(&caller);
}

#ifdef BCC

static __always_inline struct TABLE_NAME(counters) *TABLE_NAME(find_cached)(void)
{
	return TABLE_NAME(find)();
}

#else

/* Most of the cost of a call is finding the caller's row in a hash table. Therefore each CPU has a cache with the
 * counts of the caller that it runs. The cache is flushed to that caller's row when the CPU runs another one. At the
 * end of an interval, user space adds what is left in the caches. An interrupt must not use the cache, because it may
 * interrupt a program that does. If the kernel can preempt programs, no program may use it (cfg_cache is 0). */
struct TABLE_NAME(cache) {
	struct caller caller;
	struct TABLE_NAME(counters) counters;
	__u64 raw_comm[2];	/* the name before pad_comm() */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);	/* one element for each buffer */
	__type(key, __u32);
	__type(value, struct TABLE_NAME(cache));
} TABLE_NAME(cache) SEC(".maps");

/* Flush the cache, and assign it to the current caller. Return false if the table has no room for the caller's row. */
SUBPROGRAM bool TABLE_NAME(flush)(struct TABLE_NAME(cache) *cache, __u32 buffer)
{
	void *rows = bpf_map_lookup_elem(&TABLE_NAME(rows), &buffer);
	__u64 *cached = (void *)&cache->counters, *row;
	struct caller caller = {};

	if (!rows)
		return false;
	row = cache->caller.process.start_ns ? bpf_map_lookup_elem(rows, &cache->caller) : 0;
	if (row) {
#pragma unroll
		for (int i = 0; i < sizeof(cache->counters) / 8; i++) {
			if (cached[i])
				count(&row[i], cached[i]);
		}
	}
	__builtin_memset(cache, 0, sizeof(*cache));
	identify_raw(&caller, this_task(), CURRENT_IS_TYPED);
	__builtin_memcpy(cache->raw_comm, caller.identity.comm, TASK_COMM_LEN);
	pad_comm(&caller.identity);
	if (!TABLE_NAME(find_or_add)(rows, &caller))
		return false;
	cache->caller = caller;
	return true;
}

static __always_inline struct TABLE_NAME(counters) *TABLE_NAME(find_cached)(void)
{
	struct TABLE_NAME(cache) *cache;
	__u32 buffer;

	if (!cfg_cache)
		return TABLE_NAME(find)();
	buffer = current_buffer();
	cache = bpf_map_lookup_elem(&TABLE_NAME(cache), &buffer);
	if (!cache)
		return 0;
	if (!is_current(&cache->caller, cache->raw_comm) && !TABLE_NAME(flush)(cache, buffer))
		return TABLE_NAME(without_row)(buffer, true);
	return &cache->counters;
}

#endif

#undef TABLE
#undef TABLE_SIZE
