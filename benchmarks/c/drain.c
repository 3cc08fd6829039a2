/* SPDX-License-Identifier: Apache-2.0 */
/* What a drain in C takes: all rows out of a hash map in one call, and the sums of their counters, which stand last. */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int drain(int fd, uint32_t capacity, uint32_t key_size, uint32_t value_size, uint32_t counters, uint64_t *sums)
{
	static char *keys, *values;
	static uint32_t room;
	uint32_t count = capacity, after[2];
	int result;

	if (room < capacity) {
		free(keys);
		free(values);
		keys = malloc((size_t)capacity * key_size);
		values = malloc((size_t)capacity * value_size);
		room = capacity;
	}
	memset(sums, 0, counters * sizeof(*sums));
	result = bpf_map_lookup_and_delete_batch(fd, NULL, after, keys, values, &count, NULL);
	if (result && errno != ENOENT)
		return -1;
	for (uint32_t row = 0; row < count; row++) {
		uint64_t *n = (uint64_t *)(values + (size_t)(row + 1) * value_size) - counters;

		for (uint32_t i = 0; i < counters; i++)
			sums[i] += n[i];
	}
	return count;
}
