/* SPDX-License-Identifier: GPL-2.0-only */
/* Include template: a table with one row for each value of a key that the probe defines.
 *
 *	struct users_key {		// integers without padding
 *		__u32 uid, zero;
 *	};
 *	struct users_counters {		// __u64 that only grow
 *		__u64 calls;
 *	};
 *	#define TABLE users
 *	#define TABLE_SIZE 1024		// rows per interval, 16384 by default
 *	#include "keyed_table.bpf.h"
 *
 * This makes the table's maps, and users_find(&key), which returns the counters of that key, or 0 if the call cannot be
 * counted. If the table is full, it returns the totals and counts an overflow. */

#define TABLE_KEY struct TABLE_NAME(key)
#define TABLE_ROW struct TABLE_NAME(counters)
#include "table_maps.bpf.h"
#undef TABLE_KEY
#undef TABLE_ROW

/* The initial value of a row. Counters with histograms are too big for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct TABLE_NAME(counters));
} TABLE_NAME(zeros) SEC(".maps");

/* The return type is void *, because the conversion in users_find() keeps clang 14 from merging the null checks here
 * with those of the caller. */
static __always_inline void *TABLE_NAME(find_or_add)(struct TABLE_NAME(key) *key)
{
	__u32 buffer = current_buffer(), zero = 0;
	void *rows = bpf_map_lookup_elem(&TABLE_NAME(rows), &buffer), *counters, *zeros;

	if (!rows)
		return 0;
	counters = bpf_map_lookup_elem(rows, key);
	if (counters)
		return counters;
	zeros = bpf_map_lookup_elem(&TABLE_NAME(zeros), &zero);
	if (zeros)
		bpf_map_update_elem(rows, key, zeros, BPF_NOEXIST);
	counters = bpf_map_lookup_elem(rows, key);
	if (counters)
		return counters;
	return TABLE_NAME(without_row)(buffer, true);
}

static __always_inline struct TABLE_NAME(counters) *TABLE_NAME(find)(struct TABLE_NAME(key) *key)
{
	return TABLE_NAME(find_or_add)(key);
}

#undef TABLE
#undef TABLE_SIZE
