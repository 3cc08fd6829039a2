/* SPDX-License-Identifier: GPL-2.0-only */
/* The ladder's steps "a row" and "a row, cached", with one thing done in another way. */
#ifndef EXPERIMENTS_BPF_H
#define EXPERIMENTS_BPF_H

/* ---- a row, found in the table for each call ---- */

/* Totals beside the row. */
static __always_inline int step_row_and_totals(__u64 bytes)
{
	count_read(ladder_without_row(current_buffer(), false), bytes);
	return count_read(ladder_find(), bytes);
}

/* The buffer's map is named in the program, not looked up in a map of maps: the kernel then calls the hash table's own
 * function, and not through a pointer, which a retpoline makes dear. */
static __always_inline int step_named_map(__u64 bytes)
{
	struct process_key key = {};
	__u32 buffer = current_buffer();
	struct ladder_row *row;

	current_process(&key);
	row = buffer ? bpf_map_lookup_elem(&ladder_rows_1, &key) : bpf_map_lookup_elem(&ladder_rows_0, &key);
	if (!row)
		row = buffer ? ladder_new_row(&ladder_rows_1, &key, 0, this_task(), CURRENT_IS_TYPED) :
			       ladder_new_row(&ladder_rows_0, &key, 0, this_task(), CURRENT_IS_TYPED);
	return row ? count_read(&row->counters, bytes) : 0;
}

/* ... and a key of 8 bytes, where there are 16. (A start alone does not tell processes apart that two CPUs began in the
 * same nanosecond.) */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SIZE);
	__type(key, __u64);
	__type(value, struct ladder_row);
} ladder_short SEC(".maps");

static __always_inline int step_short_key(__u64 bytes)
{
	struct ladder_row *row, fresh = {};
	struct process_key key = {};

	current_process(&key);
	row = bpf_map_lookup_elem(&ladder_short, &key.start_ns);
	if (!row) {
		bpf_map_update_elem(&ladder_short, &key.start_ns, &fresh, BPF_NOEXIST);
		row = bpf_map_lookup_elem(&ladder_short, &key.start_ns);
	}
	return row ? count_read(&row->counters, bytes) : 0;
}

/* The row in the task's own storage: no hash. Nobody could drain such rows but by walking over all tasks. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct ladder_row);
} ladder_of_task SEC(".maps");

static __always_inline int step_task_storage(__u64 bytes)
{
	struct ladder_row *row = bpf_task_storage_get(&ladder_of_task, bpf_get_current_task_btf(), 0,
						      BPF_LOCAL_STORAGE_GET_F_CREATE);

	return row ? count_read(&row->counters, bytes) : 0;
}

/* Each CPU remembers the last process and the place of its row in an array, which a lookup finds without a hash. */
struct ladder_last {
	struct process_key key;
	__u32 place, buffer;
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ladder_last);
} ladder_last SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SIZE);
	__type(key, __u32);
	__type(value, struct ladder_row);
} ladder_places SEC(".maps");

static __always_inline int step_last_row(__u64 bytes)
{
	struct process_key key = {};
	__u32 zero = 0, buffer = current_buffer(), place;
	struct ladder_last *last = bpf_map_lookup_elem(&ladder_last, &zero);
	struct ladder_row *row;

	if (!last)
		return 0;
	current_process(&key);
	if (last->key.tgid != key.tgid || last->key.start_ns != key.start_ns ||
	    last->key.exec_id != key.exec_id || last->buffer != buffer) {
		last->key = key;
		last->buffer = buffer;
		last->place = key.tgid & (SIZE - 1);
	}
	place = last->place;
	row = bpf_map_lookup_elem(&ladder_places, &place);
	return row ? count_read(&row->counters, bytes) : 0;
}

/* ---- a row, in the per-CPU cache ---- */

/* Sums that are not atomic. */
static __always_inline int step_cached_plain(__u64 bytes)
{
	struct ladder_counters *counters = ladder_find_cached();

	if (!counters)
		return 0;
	counters->calls += 1;
	counters->bytes += bytes;
	return 0;
}

/* Which buffer is in a map, which a program looks up. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} ladder_interval SEC(".maps");

static __always_inline int step_cached_buffer_in_map(__u64 bytes)
{
	__u32 zero = 0, *at = bpf_map_lookup_elem(&ladder_interval, &zero), buffer;
	struct ladder_cache *cache;
	struct process_key key;

	if (!at)
		return 0;
	buffer = *at & 1;
	cache = bpf_map_lookup_elem(&ladder_cache, &buffer);
	if (!cache)
		return 0;
	current_process(&key);
	if ((cache->key.start_ns != key.start_ns || cache->key.tgid != key.tgid || cache->key.exec_id != key.exec_id) &&
	    !ladder_flush(cache, buffer))
		return 0;
	return count_read(&cache->row.counters, bytes);
}

/* Totals beside what is cached. */
static __always_inline int step_cached_and_totals(__u64 bytes)
{
	count_read(ladder_without_row(current_buffer(), false), bytes);
	return count_read(ladder_find_cached(), bytes);
}

#endif
