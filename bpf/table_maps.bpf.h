/* SPDX-License-Identifier: GPL-2.0-only */
/* An include template: the maps of a table, for a row of whatever shape. process_table.bpf.h and keyed_table.bpf.h
 * include it; a table whose row is neither of theirs does so itself. It needs
 *
 *	TABLE		the table's name, such as hello
 *	TABLE_SIZE	how many rows an interval can hold; the setting table_size, 16,384 by default, sets it at the load
 *	TABLE_KEY	the type of a key
 *	TABLE_ROW	the type of a row, which ends with `struct hello_counters counters` or is that itself
 *
 * and makes the maps hello_rows (of the buffers hello_rows_0 and hello_rows_1) and hello_totals. */

#ifndef TABLE_SIZE
#define TABLE_SIZE 16384
#endif

/* Rows are preallocated: an insertion then needs no memory, in whatever context the program runs. */
struct TABLE_NAME(buffer) {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, TABLE_SIZE);
	__type(key, TABLE_KEY);
	__type(value, TABLE_ROW);
};

struct TABLE_NAME(buffer) TABLE_NAME(rows_0) SEC(".maps");
struct TABLE_NAME(buffer) TABLE_NAME(rows_1) SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, __u32);
	__array(values, struct TABLE_NAME(buffer));
} TABLE_NAME(rows) SEC(".maps") = { .values = { &TABLE_NAME(rows_0), &TABLE_NAME(rows_1) } };

/* What found no row, and how many calls that were: with the rows it is all that happened. */
struct TABLE_NAME(totals) {
	struct TABLE_NAME(counters) counters;
	__u64 overflow;
};
_Static_assert(sizeof(struct TABLE_NAME(counters)) % 8 == 0, "counters are __u64");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);	/* an element for each buffer */
	__type(key, __u32);
	__type(value, struct TABLE_NAME(totals));
} TABLE_NAME(totals) SEC(".maps");

/* Where to count a call that has no row; it is an overflow if the table is full. */
static __always_inline struct TABLE_NAME(counters) *TABLE_NAME(without_row)(__u32 buffer, const bool full)
{
	struct TABLE_NAME(totals) *totals = bpf_map_lookup_elem(&TABLE_NAME(totals), &buffer);

	if (!totals)
		return 0;
	if (full)
		count(&totals->overflow, 1);
	return &totals->counters;
}
