/* SPDX-License-Identifier: GPL-2.0-only */
/* Include template: the maps of a table with rows of any type. process_table.bpf.h and keyed_table.bpf.h include it. A
 * probe whose rows fit neither includes it directly. It needs
 *
 *	TABLE		the table's name, such as hello
 *	TABLE_SIZE	the number of rows per interval, 16,384 by default; the setting table_size overrides it
 *	TABLE_KEY	the type of a key
 *	TABLE_ROW	the type of a row: struct hello_counters, or a struct that ends with one named counters
 *
 * and makes the maps hello_rows (of the buffers hello_rows_0 and hello_rows_1) and hello_totals. */

#ifndef TABLE_SIZE
#define TABLE_SIZE 16384
#endif

/* Rows are preallocated, so an insertion allocates no memory and works in every context that a program runs in. */
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

/* Counts of calls without a row, and the number of calls that found the table full. Rows and totals together are
 * everything that was counted. */
struct TABLE_NAME(totals) {
	struct TABLE_NAME(counters) counters;
	__u64 overflow;
};
_Static_assert(sizeof(struct TABLE_NAME(counters)) % 8 == 0, "counters are __u64");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);	/* one element for each buffer */
	__type(key, __u32);
	__type(value, struct TABLE_NAME(totals));
} TABLE_NAME(totals) SEC(".maps");

/* Return the counters for a call without a row. If the table is `full`, count an overflow. */
static __always_inline struct TABLE_NAME(counters) *TABLE_NAME(without_row)(__u32 buffer, const bool full)
{
	struct TABLE_NAME(totals) *totals = bpf_map_lookup_elem(&TABLE_NAME(totals), &buffer);

	if (!totals)
		return 0;
	if (full)
		count(&totals->overflow, 1);
	return &totals->counters;
}
