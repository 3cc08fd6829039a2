// SPDX-License-Identifier: GPL-2.0-only
/* Counts the requests of each disk, from when they are issued to its driver until they complete. */
#include "ebpfmon.bpf.h"

/* Disks that can be active in one interval. Two buffers of 256 rows of 1 kB, key and hash table included, are 0.5 MB
 * of kernel memory. The setting table_size overrides it. */
#define DISKS 256
/* Requests that can be tracked while they are in flight. Further ones are counted as `unfollowed`. The queues of 100
 * disks hold fewer. 32,768 elements of 120 bytes are 3.9 MB. */
#define IN_FLIGHT 32768
/* The bounds of the latency histograms are 8 microseconds, twice that, and so on up to 33.6 seconds. */
#define UNIT_NS 8000
#define SLOTS 24
#define DISK_NAME_LEN 32

/* Values of enum req_op (before Linux 6.0, enum req_opf) that Linux has never renumbered. The four operations with
 * counters are 0 to 3, which is also the order of their counters. Bit 0 is set in operations that send data to the disk.
 * Commands that programs send to a disk directly have the numbers from 32. */
#define REQ_OP_MASK 0xff
#define REQ_OP_READ 0
#define REQ_OP_WRITE 1
#define REQ_OP_FLUSH 2
#define REQ_OP_DISCARD 3
#define REQ_OP_SECURE_ERASE 5
#define REQ_OP_TO_DISK 1
#define REQ_OP_COMMANDS 32

#ifdef BCC
#pragma ebpfmon include <linux/blkdev.h>
#pragma ebpfmon include <linux/blk-mq.h>
#else
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct gendisk {
	char disk_name[DISK_NAME_LEN];
};

struct request_queue {
	struct gendisk *disk;
};

struct request {
	struct request_queue *q;
	unsigned int cmd_flags;
	unsigned int __data_len;
};

/* Linux f3fa33acca9f ("block: remove the ->rq_disk field in struct request") (in v5.17) */
struct request___old {
	struct gendisk *rq_disk;
};
#pragma clang attribute pop
#endif

/* A disk is known by its name, because its device number may be given to another disk when it is removed. */
struct block_io_key {
	__u64 name[DISK_NAME_LEN / 8];	/* as in struct gendisk, filled up with zeros */
};

/* The counters of one operation. A row has them for each of the four operations, as plain fields with a prefix. */
struct block_io_operation {
	__u64 issued;		/* requests that were issued and can be tracked */
	__u64 requests;		/* requests that completed */
	__u64 errors;		/* requests that completed with an error */
	__u64 bytes;		/* bytes that were transferred */
	__u64 ns;		/* sum of the latencies of completed requests */
	__u64 latency[SLOTS];
};

#define OPERATION(op)                                                                \
	__u64 op##_issued, op##_requests, op##_errors, op##_bytes, op##_ns, op##_latency[SLOTS]

struct block_io_counters {
	OPERATION(read);
	OPERATION(write);
	OPERATION(flush);
	OPERATION(discard);
	__u64 unfollowed;	/* requests that could not be tracked, because too many were in flight */
};
_Static_assert(sizeof(struct block_io_counters) == 4 * sizeof(struct block_io_operation) + 8,
	       "an operation's counters are struct block_io_operation");

#define TABLE block_io
#define TABLE_SIZE DISKS
#include "keyed_table.bpf.h"

struct block_io_request {
	__u64 issued_ns;
	__u64 operation;
	struct block_io_key disk;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, IN_FLIGHT);
	__type(key, __u64);
	__type(value, struct block_io_request);
} block_io_in_flight SEC(".maps");

static __always_inline struct gendisk *disk_of(struct request *request)
{
#ifdef BCC
	/* Linux 50b4aecfbbb0 ("block: remove GENHD_FL_UP") (in v5.15). By then, request queues had a pointer to their disk. */
#pragma ebpfmon ifdef GENHD_FL_UP
	return READ_FIELD(request, rq_disk, true);
#pragma ebpfmon else
	return BPF_CORE_READ(request, q, disk);
#pragma ebpfmon endif
#else
	struct request___old *old = (void *)request;

	if (bpf_core_field_exists(struct request___old, rq_disk))
		return old->rq_disk;
	return request->q->disk;
#endif
}

/* Return one of the four operations, or a greater number for requests that are not counted: commands that programs send
 * to a disk directly, and operations on zones except appending to them. Linux has renumbered those on zones, but only
 * appending has data. To look its number up, libbpf 1.1 would search the BTF of modules on kernels without the enum's
 * name, which takes CAP_SYS_ADMIN. */
static __always_inline __u32 operation_of(struct request *request)
{
	__u32 operation = READ_FIELD(request, cmd_flags, true) & REQ_OP_MASK;

	if (operation == REQ_OP_SECURE_ERASE)
		return REQ_OP_DISCARD;
	if (operation > REQ_OP_DISCARD && operation < REQ_OP_COMMANDS && operation & REQ_OP_TO_DISK &&
	    READ_FIELD(request, __data_len, true))
		return REQ_OP_WRITE;
	return operation;
}

static __always_inline bool is_same_disk(struct block_io_key *a, struct block_io_key *b)
{
	__u64 difference = 0;

#pragma unroll
	for (int n = 0; n < DISK_NAME_LEN / 8; n++)
		difference |= a->name[n] ^ b->name[n];
	return !difference;
}

static __always_inline struct block_io_operation *counters_of(struct block_io_counters *counters, __u32 operation)
{
	return (struct block_io_operation *)&counters->read_issued + (operation & REQ_OP_DISCARD);
}

/* Handle the issue of a request, which comes after all merges. A busy driver hands a request back, and the kernel then
 * issues it again. If the map still has a different request at the same address, the kernel skipped the program when
 * that one completed, and counted a missed run. */
static __always_inline int on_issue(struct request *request)
{
	struct block_io_request issued = {}, *former;
	struct block_io_counters *counters;
	__u64 address = (__u64)request;
	struct gendisk *disk;

	issued.operation = operation_of(request);
	if (issued.operation > REQ_OP_DISCARD)
		return 0;
	issued.issued_ns = bpf_ktime_get_ns();
	disk = disk_of(request);	/* 0 if the queue has no disk: the name is then empty */
	READ_STRING(issued.disk.name, disk, disk_name);
	former = bpf_map_lookup_elem(&block_io_in_flight, &address);
	if (former && is_same_disk(&former->disk, &issued.disk) && former->operation == issued.operation) {
		former->issued_ns = issued.issued_ns;
		return 0;
	}
	if (former) {
		counters = block_io_find(&former->disk);
		if (counters)
			count(&counters_of(counters, former->operation)->requests, 1);
	}
	counters = block_io_find(&issued.disk);
	if (!counters)
		return 0;
	if (bpf_map_update_elem(&block_io_in_flight, &address, &issued, BPF_ANY)) {
		count(&counters->unfollowed, 1);
		return 0;
	}
	count(&counters_of(counters, issued.operation)->issued, 1);
	return 0;
}

/* Handle the completion of a request or of a part of it. The request is complete if this part is all that is left of
 * it. Requests that were never issued did not reach the disk, and are not counted: a flush with nothing to write, and
 * the last step of a write that includes flushes. */
static __always_inline int on_complete(struct request *request, int error, __u32 bytes)
{
	struct block_io_operation *operation_counters;
	struct block_io_counters *counters;
	struct block_io_request *issued;
	__u64 address = (__u64)request, took_ns;
	struct block_io_key disk;
	__u32 operation;
	bool complete;

	issued = bpf_map_lookup_elem(&block_io_in_flight, &address);
	if (!issued)
		return 0;
	complete = bytes >= READ_FIELD(request, __data_len, true);
	took_ns = bpf_ktime_get_ns() - issued->issued_ns;
	operation = issued->operation;
	disk = issued->disk;
	if (complete)
		bpf_map_delete_elem(&block_io_in_flight, &address);
	counters = block_io_find(&disk);
	if (!counters)
		return 0;
	operation_counters = counters_of(counters, operation);
	if (error)
		count(&operation_counters->errors, complete);
	else
		count(&operation_counters->bytes, bytes);
	if (!complete)
		return 0;
	count(&operation_counters->requests, 1);
	count(&operation_counters->ns, took_ns);
	count_slot(operation_counters->latency, log2_slot(took_ns, UNIT_NS, SLOTS), SLOTS);
	return 0;
}

/* Linux a54895fa057c ("block: remove the request_queue to argument request based tracepoints") (in v5.11, and in
 * Debian's 5.10): TP_PROTO(struct request_queue *q, struct request *rq) became TP_PROTO(struct request *rq). */
SEC("tp_btf/block_rq_issue")
int BPF_PROG(block_rq_issue_of_queue_tp_btf, void *queue, struct request *request)
{
	return on_issue(request);
}

SEC("tp_btf/block_rq_issue")
int BPF_PROG(block_rq_issue_tp_btf, struct request *request)
{
	return on_issue(request);
}

/* `error` is an int or a blk_status_t, depending on the kernel. */
SEC("tp_btf/block_rq_complete")
int BPF_PROG(block_rq_complete_tp_btf, struct request *request, int error, unsigned int bytes)
{
	return on_complete(request, error, bytes);
}

char LICENSE[] SEC("license") = "GPL";
