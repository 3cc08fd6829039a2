/* SPDX-License-Identifier: GPL-2.0-only */
/* An include template: a table with a row for each process that did something in the interval.
 *
 *	struct hello_counters {		// __u64, which only grow
 *		__u64 calls;
 *	};
 *	#define TABLE hello
 *	#define TABLE_SIZE 16384	// rows of an interval, by default 16384
 *	#include "process_table.bpf.h"
 *
 * It makes `struct hello_row` (who the process is, and its counters), the table's maps, and functions that return the
 * counters to count a call in, or 0 if it cannot be counted:
 *
 *	hello_find()		those of the current process
 *	hello_find_cached()	the same, far cheaper, in a task that has called the kernel itself: not in an interrupt
 *	hello_find_for()	those of another process
 *
 * A call that finds no room in a full table is counted in the totals, as overflow. Without cfg_rows all are counted there. */

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
	long taken = bpf_map_update_elem(rows, key, &fresh, BPF_NOEXIST);

	row = bpf_map_lookup_elem(rows, key);
	if (!row || taken)
		return row;
	if (identity)
		row->identity = *identity;
	else
		identify(&row->identity, task, typed);
	return row;
}

/* Of the process `key`, which is `identity` if that is known, else `task`'s (`typed`: see READ_FIELD). */
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

/* To find a process's row in a hash table is most of what a call costs. So each CPU has a cache, which counts what the
 * process does that it runs, and is flushed to that process's row when another one comes. What is in a cache when the
 * interval ends, user space adds. An interrupt may come in the middle of this, and must not use it; nor may any program
 * where the kernel preempts programs (cfg_cache). */
struct TABLE_NAME(cache) {
	struct process_key key;
	struct TABLE_NAME(row) row;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);	/* an element for each buffer */
	__type(key, __u32);
	__type(value, struct TABLE_NAME(cache));
} TABLE_NAME(cache) SEC(".maps");

/* Flush the cache, and make it the current process's, which has a row from now on: false if there is no room for one. */
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
