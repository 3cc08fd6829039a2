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
 * This makes `struct hello_row` (the identity of a process and its counters), the table's maps, and functions that
 * return the counters for a call, or 0 if the call cannot be counted:
 *
 *	hello_find()		the counters of the current process
 *	hello_find_cached()	the same, but much cheaper; only in task context, never in interrupts
 *	hello_find_for()	the counters of another process
 *
 * If the table is full, they return the totals and count an overflow. If cfg_rows is 0, they always return the
 * totals. */

struct TABLE_NAME(row) {
	struct process_identity identity;
	struct TABLE_NAME(counters) counters;
};

#define TABLE_KEY struct process_key
#define TABLE_ROW struct TABLE_NAME(row)
#include "table_maps.bpf.h"
#undef TABLE_KEY
#undef TABLE_ROW

static __always_inline struct TABLE_NAME(row) *TABLE_NAME(new_row)(void *rows, struct process_key *key,
								   const struct process_identity *identity,
								   struct task_struct *task, const bool typed)
{
	struct TABLE_NAME(row) fresh = {}, *row;
	long error = bpf_map_update_elem(rows, key, &fresh, BPF_NOEXIST);

	row = bpf_map_lookup_elem(rows, key);
	if (!row || error) /* Another CPU may have inserted the row first. */
		return row;
	if (identity)
		row->identity = *identity;
	else
		identify(&row->identity, task, typed);
	return row;
}

/* Return the counters of process `key`. A new row gets `identity`, or if that is 0, the identity read from `task`. For
 * `typed`, see READ_FIELD. */
static __always_inline struct TABLE_NAME(counters) *TABLE_NAME(find_for)(struct process_key *key,
									 const struct process_identity *identity,
									 struct task_struct *task, const bool typed)
{
	__u32 buffer = current_buffer();
	struct TABLE_NAME(row) *row;
	void *rows;

	if (!cfg_rows)
		return TABLE_NAME(without_row)(buffer, false);
	rows = bpf_map_lookup_elem(&TABLE_NAME(rows), &buffer);
	if (!rows)
		return 0;
	row = bpf_map_lookup_elem(rows, key);
	if (!row)
		row = TABLE_NAME(new_row)(rows, key, identity, task, typed);
	if (!row)
		return TABLE_NAME(without_row)(buffer, true);
	return &row->counters;
}

static __always_inline struct TABLE_NAME(counters) *TABLE_NAME(find)(void)
{
	struct process_key key = {};

	if (cfg_rows)
		current_process(&key);
	return TABLE_NAME(find_for)(&key, 0, this_task(), CURRENT_IS_TYPED);
}

#ifdef BCC

static __always_inline struct TABLE_NAME(counters) *TABLE_NAME(find_cached)(void)
{
	return TABLE_NAME(find)();
}

#else

/* Most of the cost of a call is finding the process's row in a hash table. Therefore each CPU has a cache with the
 * counts of the process that it runs. The cache is flushed to that process's row when the CPU runs another process. At
 * the end of an interval, user space adds what is left in the caches. An interrupt must not use the cache, because it
 * may interrupt a program that does. If the kernel can preempt programs, no program may use it (cfg_cache is 0). */
struct TABLE_NAME(cache) {
	struct process_key key;
	struct TABLE_NAME(row) row;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);	/* one element for each buffer */
	__type(key, __u32);
	__type(value, struct TABLE_NAME(cache));
} TABLE_NAME(cache) SEC(".maps");

/* Flush the cache and assign it to the current process, after giving that a row. Return false if the table is full. */
static __noinline bool TABLE_NAME(flush)(struct TABLE_NAME(cache) *cache, __u32 buffer)
{
	void *rows = bpf_map_lookup_elem(&TABLE_NAME(rows), &buffer);
	__u64 *cached = (void *)&cache->row.counters, *counters;
	struct process_key key = {};
	struct TABLE_NAME(row) *row;

	if (!rows)
		return false;
	row = cache->key.start_ns ? bpf_map_lookup_elem(rows, &cache->key) : 0;
	if (row) {
		counters = (void *)&row->counters;
#pragma unroll
		for (int i = 0; i < sizeof(row->counters) / 8; i++) {
			if (cached[i])
				count(&counters[i], cached[i]);
		}
	}
	__builtin_memset(cache, 0, sizeof(*cache));
	current_process(&key);
	if (!bpf_map_lookup_elem(rows, &key)) {
		identify(&cache->row.identity, this_task(), CURRENT_IS_TYPED);
		bpf_map_update_elem(rows, &key, &cache->row, BPF_NOEXIST);
		if (!bpf_map_lookup_elem(rows, &key))
			return false;
	}
	cache->key = key;
	return true;
}

static __always_inline struct TABLE_NAME(counters) *TABLE_NAME(find_cached)(void)
{
	struct TABLE_NAME(cache) *cache;
	struct process_key key;
	__u32 buffer;

	if (!cfg_cache)
		return TABLE_NAME(find)();
	buffer = current_buffer();
	cache = bpf_map_lookup_elem(&TABLE_NAME(cache), &buffer);
	if (!cache)
		return 0;
	current_process(&key);
	if ((cache->key.start_ns != key.start_ns || cache->key.tgid != key.tgid || cache->key.exec_id != key.exec_id) &&
	    !TABLE_NAME(flush)(cache, buffer))
		return TABLE_NAME(without_row)(buffer, true);
	return &cache->row.counters;
}

#endif

#undef TABLE
#undef TABLE_SIZE
