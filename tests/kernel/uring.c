/* SPDX-License-Identifier: Apache-2.0 */
/* Make a known number of requests to io_uring, to be counted: uring DIR KEY=COUNT ...
 *
 * Each request is awaited before the next one. `async=1` lets the kernel's worker threads handle them, and `sqpoll=1` lets
 * the kernel's polling thread submit them. The program uses the system calls themselves, and is linked statically. It
 * exits with 77 if the kernel refuses io_uring or does not know a request. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "plan.h"

/* Older headers do not have these. */
#define READV_FIXED 60
#define WRITEV_FIXED 61


static char buffer[4096] __attribute__((aligned(4096)));
static struct iovec two[2] = { { buffer, 100 }, { buffer + 100, 31 } };
static int ring;
static unsigned int flags, *sq_head, *sq_tail, *sq_flags, *cq_head, *cq_tail, sq_mask, cq_mask;
static struct io_uring_sqe *sqes;
static struct io_uring_cqe *cqes;

static void *map(size_t size, off_t offset)
{
	void *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, offset);

	check(memory != MAP_FAILED, "mmap");
	return memory;
}

static void set_up(void)
{
	struct io_uring_params params = { .flags = count_of("sqpoll") ? IORING_SETUP_SQPOLL : 0 };
	struct iovec fixed = { buffer, sizeof(buffer) };
	unsigned int *array;
	char *sq, *cq;

	ring = syscall(SYS_io_uring_setup, 8, &params);
	if (ring < 0)
		_exit(77);
	flags = params.flags;
	sq = map(params.sq_off.array + params.sq_entries * sizeof(unsigned int), IORING_OFF_SQ_RING);
	cq = map(params.cq_off.cqes + params.cq_entries * sizeof(*cqes), IORING_OFF_CQ_RING);
	sqes = map(params.sq_entries * sizeof(*sqes), IORING_OFF_SQES);
	sq_head = (void *)(sq + params.sq_off.head);
	sq_tail = (void *)(sq + params.sq_off.tail);
	sq_flags = (void *)(sq + params.sq_off.flags);
	sq_mask = *(unsigned int *)(sq + params.sq_off.ring_mask);
	array = (void *)(sq + params.sq_off.array);
	cq_head = (void *)(cq + params.cq_off.head);
	cq_tail = (void *)(cq + params.cq_off.tail);
	cq_mask = *(unsigned int *)(cq + params.cq_off.ring_mask);
	cqes = (void *)(cq + params.cq_off.cqes);
	for (unsigned int i = 0; i < params.sq_entries; i++)
		array[i] = i;
	check(!syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &fixed, 1), "io_uring_register");
}

static void submit(const struct io_uring_sqe *request)
{
	unsigned int tail = *sq_tail;

	sqes[tail & sq_mask] = *request;
	if (count_of("async"))
		sqes[tail & sq_mask].flags |= IOSQE_ASYNC;
	__atomic_store_n(sq_tail, tail + 1, __ATOMIC_SEQ_CST);
	if (!(flags & IORING_SETUP_SQPOLL))
		check(syscall(SYS_io_uring_enter, ring, 1, 0, 0, 0, 0) == 1, "submit");
	else if (__atomic_load_n(sq_flags, __ATOMIC_SEQ_CST) & IORING_SQ_NEED_WAKEUP)
		check(syscall(SYS_io_uring_enter, ring, 0, 0, IORING_ENTER_SQ_WAKEUP, 0, 0) >= 0, "wake up");
}

static void await_completion(int expected, const char *what)
{
	unsigned int head = *cq_head;
	int result;

	while (head == __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE)) {
		long entered = syscall(SYS_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS, 0, 0);

		check(entered >= 0 || errno == EINTR, "wait");
	}
	result = cqes[head & cq_mask].res;
	__atomic_store_n(cq_head, head + 1, __ATOMIC_RELEASE);
	if (result == expected)
		return;
	fprintf(stderr, "%s: %d, expected %d\n", what, result, expected);
	_exit(result == -EINVAL ? 77 : 1);
}

#define REQUEST(expected, ...) \
	do { \
		submit(&(struct io_uring_sqe){ __VA_ARGS__ }); \
		await_completion(expected, #__VA_ARGS__); \
	} while (0)

static void do_reads_and_writes(void)
{
	int null = open("/dev/null", O_RDWR), zero = open("/dev/zero", O_RDWR), fds[2];

	check(null >= 0 && zero >= 0 && !pipe(fds), "open");
#define IO(op, file, what, size) .opcode = op, .fd = file, .addr = (uintptr_t)(what), .len = size
	TIMES("read") REQUEST(97, IO(IORING_OP_READ, zero, buffer, 97));
	TIMES("readv") REQUEST(131, IO(IORING_OP_READV, zero, two, 2));
	TIMES("read_fixed") REQUEST(89, IO(IORING_OP_READ_FIXED, zero, buffer, 89));
	TIMES("readv_fixed") REQUEST(131, IO(READV_FIXED, zero, two, 2));
	TIMES("read_end") REQUEST(0, IO(IORING_OP_READ, null, buffer, 97));
	TIMES("read_fail") REQUEST(-EBADF, IO(IORING_OP_READ, -1, buffer, 97));
	TIMES("write") REQUEST(83, IO(IORING_OP_WRITE, null, buffer, 83));
	TIMES("writev") REQUEST(131, IO(IORING_OP_WRITEV, null, two, 2));
	TIMES("write_fixed") REQUEST(79, IO(IORING_OP_WRITE_FIXED, null, buffer, 79));
	TIMES("writev_fixed") REQUEST(131, IO(WRITEV_FIXED, null, two, 2));
	TIMES("write_fail") REQUEST(-EBADF, IO(IORING_OP_WRITE, -1, buffer, 83));
	TIMES("late_read") { /* completes when there is something to read */
		submit(&(struct io_uring_sqe){ IO(IORING_OP_READ, fds[0], buffer, 97) });
		check(write(fds[1], buffer, 1) == 1, "write");
		await_completion(1, "late_read");
	}
}

static void do_files(const char *dir)
{
	char path[4096];
	int file, fds[2];
	long opened = 0;

	snprintf(path, sizeof(path), "%s/uring.%d", dir, getpid());
	file = open(path, O_RDWR | O_CREAT, 0600);
	check(file >= 0 && !pipe(fds) && !ftruncate(file, 4096) && !close(dup(file)), "open");
	TIMES("direct_read") {
		int direct = open(path, O_RDONLY | O_DIRECT);

		if (direct < 0)
			_exit(77);
		REQUEST(4096, IO(IORING_OP_READ, direct, buffer, 4096));
		close(direct);
	}
	TIMES("openat") {
		opened = dup(file); /* the next descriptor, because nothing else runs */
		close(opened);
		REQUEST(opened, .opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .addr = (uintptr_t)path, .open_flags = O_RDONLY);
		REQUEST(0, .opcode = IORING_OP_CLOSE, .fd = opened);
	}
	TIMES("open_fail")
		REQUEST(-ENOENT, .opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .addr = (uintptr_t)"/nothing/here");
	TIMES("close_fail") REQUEST(-EBADF, .opcode = IORING_OP_CLOSE, .fd = 1000000);
	TIMES("splice") {
		REQUEST(61, .opcode = IORING_OP_SPLICE, .fd = fds[1], .off = -1, .len = 61, .splice_fd_in = file);
		check(read(fds[0], buffer, 61) == 61, "read");
	}
	TIMES("unlinkat") {
		check(!unlink(path) && !mknod(path, S_IFREG | 0600, 0), "mknod");
		REQUEST(0, .opcode = IORING_OP_UNLINKAT, .fd = AT_FDCWD, .addr = (uintptr_t)path);
		check(!mknod(path, S_IFREG | 0600, 0), "mknod");
	}
	check(!unlink(path), "unlink");
	TIMES("rmdir") {
		check(!mkdir(path, 0700), "mkdir");
		REQUEST(0, .opcode = IORING_OP_UNLINKAT, .fd = AT_FDCWD, .addr = (uintptr_t)path,
			.unlink_flags = AT_REMOVEDIR);
	}
}

int main(int argc, char **argv)
{
	check(argc >= 2, "uring DIR KEY=COUNT ...");
	plan = argv + 2;
	set_up();
	do_reads_and_writes();
	do_files(argv[1]);
	return 0;
}
