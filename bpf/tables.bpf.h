/* SPDX-License-Identifier: GPL-2.0-only */
/* The kit's tables: rows by process or by a key of the author's own, and what found no row. ebpfmon.bpf.h includes it. */
#ifndef EBPFMON_TABLES_BPF_H
#define EBPFMON_TABLES_BPF_H

/* Rows are preallocated: an insertion then needs no memory, in whatever context the program runs. */
#ifdef BCC
#define INTERVAL_TABLE(name, key_type, row_type, size)
#define TOTALS(name, totals_type)
#else
#define INTERVAL_TABLE(name, key_type, row_type, size)                               \
	struct name##_side {                                                         \
		__uint(type, BPF_MAP_TYPE_HASH);                                     \
		__uint(max_entries, size);                                           \
		__type(key, key_type);                                               \
		__type(value, row_type);                                             \
	};                                                                           \
	struct name##_side name##_0 SEC(".maps"), name##_1 SEC(".maps");             \
	struct {                                                                     \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);                            \
		__uint(max_entries, 2);                                              \
		__type(key, __u32);                                                  \
		__array(values, struct name##_side);                                 \
	} name SEC(".maps") = { .values = { &name##_0, &name##_1 } }

#define TOTALS(name, totals_type)                                                    \
	struct {                                                                     \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);                             \
		__uint(max_entries, 2); /* one element a side */                     \
		__type(key, __u32);                                                  \
		__type(value, totals_type);                                          \
	} name SEC(".maps")
#endif

/* Where one call is counted: in a row; where the table is full and there is none, in the CPU's totals, of which
 * `overflow` says how many calls those are. The sum of both is all that happened. */
#define COUNTED(stem)                                                                \
	struct stem##_totals {                                                       \
		struct stem##_counters n;                                            \
		__u64 overflow;                                                      \
	};                                                                           \
	TOTALS(stem##_totals, struct stem##_totals);                                 \
	struct stem##_slots {                                                        \
		struct stem##_counters *n;                                           \
	};                                                                           \
                                                                                     \
	static __always_inline bool stem##_without_row(struct stem##_slots *to,      \
		__u32 side, const bool overflow)                                     \
	{                                                                            \
		struct stem##_totals *totals = bpf_map_lookup_elem(MAP(stem##_totals), &side); \
                                                                                     \
		if (!totals)                                                         \
			return false;                                                \
		if (overflow)                                                        \
			__sync_fetch_and_add(&totals->overflow, 1);                  \
		to->n = &totals->n;                                                  \
		return true;                                                         \
	}

/* Rows by process. Without cfg_rows all calls are counted in the totals. */
#define PROCESS_TABLE(stem, size)                                                    \
	struct stem##_row {                                                          \
		struct process_identity who;                                         \
		struct stem##_counters n;                                            \
	};                                                                           \
	COUNTED(stem)                                                                \
	INTERVAL_TABLE(stem##_rows, struct process_key, struct stem##_row, size);    \
                                                                                     \
	static __always_inline struct stem##_row *stem##_new_row(void *rows,         \
		struct process_key *key, const struct process_identity *who,         \
		void *task, const bool typed)                                        \
	{                                                                            \
		struct stem##_row fresh = {}, *row;                                  \
		long taken = bpf_map_update_elem(rows, key, &fresh, BPF_NOEXIST);    \
                                                                                     \
		row = bpf_map_lookup_elem(rows, key);                                \
		if (!row || taken)                                                   \
			return row;                                                  \
		if (who)                                                             \
			row->who = *who;                                             \
		else                                                                 \
			identify(task, &row->who, typed);                            \
		return row;                                                          \
	}                                                                            \
                                                                                     \
	/* Where to count a call of the process `key`, which is `who`, or `task`'s. */ \
	static __always_inline bool stem##_slots_of(struct stem##_slots *to,         \
		struct process_key *key, const struct process_identity *who,         \
		void *task, const bool typed)                                        \
	{                                                                            \
		__u32 side = interval_side();                                        \
		struct stem##_row *row;                                              \
		void *rows;                                                          \
                                                                                     \
		if (!cfg_rows)                                                       \
			return stem##_without_row(to, side, false);                  \
		rows = bpf_map_lookup_elem(MAP(stem##_rows), &side);                 \
		if (!rows)                                                           \
			return false;                                                \
		row = bpf_map_lookup_elem(rows, key);                                \
		if (!row)                                                            \
			row = stem##_new_row(rows, key, who, task, typed);           \
		if (!row)                                                            \
			return stem##_without_row(to, side, true);                   \
		to->n = &row->n;                                                     \
		return true;                                                         \
	}                                                                            \
                                                                                     \
	/* Where to count a call of the current process. */                          \
	static __always_inline bool stem##_slots(struct stem##_slots *to)            \
	{                                                                            \
		struct process_key key = {};                                         \
                                                                                     \
		if (cfg_rows)                                                        \
			current_process(&key);                                       \
		return stem##_slots_of(to, &key, 0, CURRENT_TASK(),                  \
				CURRENT_IS_TYPED);                                   \
	}                                                                            \
	GATHERED(stem)                                                               \
	_Static_assert(sizeof(struct stem##_counters) % 8 == 0, "counters are __u64")

/* To find a process's row in a hash table is most of what a call costs. So each CPU gathers what the process does that
 * it runs, and adds that to its row when another process comes; what is gathered when the interval ends, user space adds
 * when it drains. STEM_slots_in_task() says where to count a call of the current process, as STEM_slots() does, where the
 * task itself has called the kernel. In an interrupt, which may come in the midst of this, STEM_slots() is for that; and
 * so it is for all where the kernel preempts programs. */
#ifdef BCC
#define GATHERED(stem)                                                               \
	static __always_inline bool stem##_slots_in_task(struct stem##_slots *to)    \
	{                                                                            \
		return stem##_slots(to);                                             \
	}
#else
#define GATHERED(stem)                                                               \
	struct stem##_gathering {                                                    \
		struct process_key key;                                              \
		struct stem##_row row;                                               \
	};                                                                           \
	struct {                                                                     \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);                             \
		__uint(max_entries, 2); /* one element a side */                     \
		__type(key, __u32);                                                  \
		__type(value, struct stem##_gathering);                              \
	} stem##_gathered SEC(".maps");                                              \
                                                                                     \
	/* Another process comes, which has a row from now on: false if there is no room for one. */ \
	static __noinline bool stem##_turn(struct stem##_gathering *own, __u32 side) \
	{                                                                            \
		void *rows = bpf_map_lookup_elem(&stem##_rows, &side);               \
		__u64 *gathered = (void *)&own->row.n, *to;                          \
		struct process_key key = {};                                         \
		struct stem##_row *row;                                              \
                                                                                     \
		if (!rows)                                                           \
			return false;                                                \
		row = own->key.start_ns ? bpf_map_lookup_elem(rows, &own->key) : 0;  \
		if (row) {                                                           \
			to = (void *)&row->n;                                        \
			_Pragma("unroll")                                            \
			for (int i = 0; i < sizeof(own->row.n) / 8; i++) {           \
				if (gathered[i])                                     \
					__sync_fetch_and_add(&to[i], gathered[i]);   \
			}                                                            \
		}                                                                    \
		__builtin_memset(own, 0, sizeof(*own));                              \
		current_process(&key);                                               \
		if (!bpf_map_lookup_elem(rows, &key)) {                              \
			identify(CURRENT_TASK(), &own->row.who, CURRENT_IS_TYPED);   \
			bpf_map_update_elem(rows, &key, &own->row, BPF_NOEXIST);     \
			if (!bpf_map_lookup_elem(rows, &key))                        \
				return false;                                        \
		}                                                                    \
		own->key = key;                                                      \
		return true;                                                         \
	}                                                                            \
                                                                                     \
	static __always_inline bool stem##_slots_in_task(struct stem##_slots *to)    \
	{                                                                            \
		struct stem##_gathering *own;                                        \
		struct process_key key;                                              \
		__u32 side;                                                          \
                                                                                     \
		if (!cfg_gather)                                                     \
			return stem##_slots(to);                                     \
		side = interval_side();                                              \
		own = bpf_map_lookup_elem(&stem##_gathered, &side);                  \
		if (!own)                                                            \
			return false;                                                \
		current_process(&key);                                               \
		if ((own->key.start_ns != key.start_ns || own->key.tgid != key.tgid || \
		     own->key.exec_id != key.exec_id) && !stem##_turn(own, side)) \
			return stem##_without_row(to, side, true);                   \
		to->n = &own->row.n;                                                 \
		return true;                                                         \
	}
#endif

/* What a new row begins as: counters with histograms are too big for the stack. */
#ifdef BCC
#define NOTHING(name, counters_type)
#else
#define NOTHING(name, counters_type)                                                          \
	struct {                                                                     \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                    \
		__uint(max_entries, 1);                                              \
		__type(key, __u32);                                                  \
		__type(value, counters_type);                                \
	} name SEC(".maps")
#endif

/* Rows by a key of the author's own: `key_type` is a struct of integers. Counted as above. */
#define KEYED_TABLE(stem, key_type, size)                                            \
	COUNTED(stem)                                                                \
	INTERVAL_TABLE(stem##_rows, key_type, struct stem##_counters, size);         \
	NOTHING(stem##_nothing, struct stem##_counters);                             \
                                                                                     \
	static __always_inline bool stem##_slots(struct stem##_slots *to, key_type *key) \
	{                                                                            \
		__u32 side = interval_side(), zero = 0;                              \
		void *rows = bpf_map_lookup_elem(MAP(stem##_rows), &side), *nothing; \
                                                                                     \
		if (!rows)                                                           \
			return false;                                                \
		to->n = bpf_map_lookup_elem(rows, key);                              \
		if (to->n)                                                           \
			return true;                                                 \
		nothing = bpf_map_lookup_elem(MAP(stem##_nothing), &zero);           \
		if (nothing)                                                         \
			bpf_map_update_elem(rows, key, nothing, BPF_NOEXIST);        \
		to->n = bpf_map_lookup_elem(rows, key);                              \
		return to->n || stem##_without_row(to, side, true);                  \
	}                                                                            \
	_Static_assert(sizeof(struct stem##_counters) % 8 == 0, "counters are __u64")

#endif
