/* SPDX-License-Identifier: Apache-2.0 */
/* Do a known amount of work, to be counted: workload DIR KEY=COUNT ...
 *
 * The plan (all keys except the four below) runs once in the main thread, or once in each of `workers` threads, or once
 * in each of `children` forked processes. `storm=SECONDS` reads one byte at a time for that long, or until SIGTERM, in
 * each of the `workers` threads, and prints the number of reads. `pinned=1` keeps everything on one CPU. The program is
 * linked statically, so that it makes no other file calls than these. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "plan.h"

static const char *dir;
static volatile long storm_reads;
static volatile sig_atomic_t stopped;

/* Check that a call returns a value, or that it fails with an errno. */
#define RETURNS(value, call) check((call) == (value), #call)
#define FAILS(code, call) check((call) == -1 && errno == (code), #call)

/* Flags of clone(2) that the kernel rejects, for a thread and for a process. */
#define BAD_THREAD (CLONE_THREAD)
#define BAD_PROCESS (CLONE_SIGHAND)

static void *no_work(void *unused)
{
	return unused;
}

/* A file to copy from, one to copy to, and a pipe. */
struct copying {
	char in_path[4096], out_path[4096];
	int in, out, pipe[2];
};

static void open_copying(struct copying *files)
{
	long id = syscall(SYS_gettid);

	snprintf(files->in_path, sizeof(files->in_path), "%s/%ld.in", dir, id);
	snprintf(files->out_path, sizeof(files->out_path), "%s/%ld.out", dir, id);
	files->in = open(files->in_path, O_RDWR | O_CREAT, 0600);
	files->out = open(files->out_path, O_RDWR | O_CREAT, 0600);
	check(files->in >= 0 && files->out >= 0 && !ftruncate(files->in, 4096) && !pipe(files->pipe), "open_copying");
}

static void close_copying(struct copying *files)
{
	close(files->in);
	close(files->out);
	close(files->pipe[0]);
	close(files->pipe[1]);
	check(!unlink(files->in_path) && !unlink(files->out_path), "unlink");
}

#ifdef __x86_64__
/* Make a system call as 32-bit programs do. The sixth argument is 0. */
static long compat(long nr, long a, long b, long c, long d, long e)
{
	long result;

	/* Skip the red zone below the stack pointer, which the compiler may use. */
	__asm__ volatile("lea -128(%%rsp), %%rsp; push %%rbp; xor %%ebp, %%ebp; int $0x80; pop %%rbp; lea 128(%%rsp), %%rsp"
			 : "=a"(result) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "memory", "r8", "r9", "r10", "r11");
	return result;
}

static void do_compat(void)
{
	char *low = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	int zero = open("/dev/zero", O_RDWR);
	struct copying files;

	check(low != MAP_FAILED && zero >= 0, "compat");
	TIMES("compat_read") RETURNS(17, compat(3, zero, (long)low, 17, 0, 0));
	TIMES("compat_write") RETURNS(19, compat(4, zero, (long)low, 19, 0, 0));
	TIMES("compat_open") {
		strcpy(low, "/dev/null");
		RETURNS(0, compat(6, compat(5, (long)low, O_RDONLY, 0, 0, 0), 0, 0, 0, 0));
	}
	TIMES("compat_close_range") RETURNS(0, compat(436, 1000000, 1000001, 0, 0, 0));
	close(zero);
	if (!count_of("compat_copy"))
		return;
	open_copying(&files);
	TIMES("compat_copy") {
		memset(low, 0, 64); /* the offsets */
		RETURNS(41, compat(377, files.in, (long)low, files.out, (long)low + 8, 41));
		RETURNS(43, compat(187, files.out, files.in, (long)low + 16, 43, 0));
		RETURNS(47, compat(239, files.out, files.in, (long)low + 24, 47, 0));
		RETURNS(53, compat(313, files.in, (long)low + 32, files.pipe[1], 0, 53));
		RETURNS(53, compat(313, files.pipe[0], 0, files.out, (long)low + 40, 53));
	}
	close_copying(&files);
}
#endif

static void do_copies(void)
{
	struct copying files;
	loff_t from, to;

	open_copying(&files);
	TIMES("copy_file_range") {
		from = to = 0;
		RETURNS(101, syscall(SYS_copy_file_range, files.in, &from, files.out, &to, 101, 0));
	}
	TIMES("sendfile") {
		from = 0;
		RETURNS(103, syscall(SYS_sendfile, files.out, files.in, &from, 103));
	}
	TIMES("splice") { /* twice */
		from = to = 0;
		RETURNS(107, syscall(SYS_splice, files.in, &from, files.pipe[1], 0, 107, 0));
		RETURNS(107, syscall(SYS_splice, files.pipe[0], 0, files.out, &to, 107, 0));
	}
	TIMES("copy_end") {
		from = 4096;
		RETURNS(0, syscall(SYS_sendfile, files.out, files.in, &from, 103));
	}
	TIMES("copy_fail") {
		FAILS(EBADF, syscall(SYS_copy_file_range, -1, 0, files.out, 0, 101, 0));
		FAILS(EBADF, syscall(SYS_sendfile, files.out, -1, 0, 103));
		FAILS(EBADF, syscall(SYS_splice, -1, 0, files.pipe[1], 0, 107, 0));
	}
	close_copying(&files);
}

static void do_files(void)
{
	char path[4096], buffer[4096];
	struct iovec two[2] = { { buffer, 100 }, { buffer + 100, 31 } };
	struct open_how how = { .flags = O_RDONLY };
	long id = syscall(SYS_gettid);
	int null_r = open("/dev/null", O_RDONLY), null_w = open("/dev/null", O_WRONLY), zero = open("/dev/zero", O_RDWR);

	check(null_r >= 0 && null_w >= 0 && zero >= 0, "open");
	snprintf(path, sizeof(path), "%s/%ld", dir, id);
#ifdef SYS_open
	TIMES("open") RETURNS(0, close(syscall(SYS_open, "/dev/null", O_RDONLY)));
	TIMES("creat") RETURNS(0, close(syscall(SYS_creat, "/dev/null", 0600)));
#endif
	TIMES("openat") RETURNS(0, close(syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDONLY)));
	TIMES("openat2") RETURNS(0, close(syscall(SYS_openat2, AT_FDCWD, "/dev/null", &how, sizeof(how))));
	TIMES("open_fail") FAILS(ENOENT, open("/nothing/here", O_RDONLY));
	TIMES("close_fail") FAILS(EBADF, close(-1));
	TIMES("close_range") RETURNS(0, syscall(SYS_close_range, 1000000, 1000001, 0));

	TIMES("read") RETURNS(97, read(zero, buffer, 97));
	TIMES("read_end") RETURNS(0, read(null_r, buffer, 4096));
	TIMES("pread") RETURNS(89, pread(zero, buffer, 89, 0));
	TIMES("readv") RETURNS(131, readv(zero, two, 2));
	TIMES("preadv") RETURNS(131, preadv(zero, two, 2, 0));
	TIMES("preadv2") RETURNS(131, preadv2(zero, two, 2, 0, 0));
	TIMES("read_fail") FAILS(EBADF, read(null_w, buffer, 4096));
	TIMES("write") RETURNS(83, write(null_w, buffer, 83));
	TIMES("pwrite") RETURNS(79, pwrite(null_w, buffer, 79, 0));
	TIMES("writev") RETURNS(131, writev(null_w, two, 2));
	TIMES("pwritev") RETURNS(131, pwritev(null_w, two, 2, 0));
	TIMES("pwritev2") RETURNS(131, pwritev2(null_w, two, 2, 0, 0));
	TIMES("write_fail") FAILS(EBADF, write(null_r, buffer, 4096));

	TIMES("unlink") {
		RETURNS(0, mknod(path, S_IFREG | 0600, 0));
		RETURNS(0, unlink(path));
	}
	TIMES("unlinkat") {
		RETURNS(0, mknod(path, S_IFREG | 0600, 0));
		RETURNS(0, unlinkat(AT_FDCWD, path, 0));
	}
	TIMES("unlink_fail") FAILS(ENOENT, unlink(path));
	TIMES("rmdir") {
		RETURNS(0, mkdir(path, 0700));
		RETURNS(0, unlinkat(AT_FDCWD, path, AT_REMOVEDIR));
	}
	close(null_r);
	close(null_w);
	close(zero);
}

/* Two processes that wait for each other: the parent sends one byte, the child two. */
static void take_turns(void)
{
	int to[2], back[2];
	char bytes[2] = "";
	pid_t child;

	check(!pipe(to) && !pipe(back), "pipe");
	child = fork();
	if (!child) {
		TIMES("turns") {
			RETURNS(1, read(to[0], bytes, 1));
			RETURNS(2, write(back[1], bytes, 2));
		}
		_exit(0);
	}
	TIMES("turns") {
		RETURNS(1, write(to[1], bytes, 1));
		RETURNS(2, read(back[0], bytes, 2));
	}
	RETURNS(child, waitpid(child, 0, 0));
}

static void do_tasks(void)
{
	pthread_t thread;

	TIMES("fork") {
		pid_t child = fork();

		if (!child)
			_exit(0);
		RETURNS(child, waitpid(child, 0, 0));
	}
	if (count_of("turns"))
		take_turns();
	TIMES("thread") {
		check(!pthread_create(&thread, 0, no_work, 0), "pthread_create");
		check(!pthread_join(thread, 0), "pthread_join");
	}
	TIMES("thread_fail") FAILS(EINVAL, syscall(SYS_clone, BAD_THREAD, 0, 0, 0, 0));
	TIMES("process_fail") FAILS(EINVAL, syscall(SYS_clone, BAD_PROCESS, 0, 0, 0, 0));
	TIMES("thread3_fail") {
		uint64_t args[8] = { BAD_THREAD };

		FAILS(EINVAL, syscall(SYS_clone3, args, sizeof(args)));
	}
}

static void *do_plan(void *unused)
{
	do_files();
	do_tasks();
	if (count_of("copy_file_range") || count_of("sendfile") || count_of("splice") || count_of("copy_end") ||
	    count_of("copy_fail"))
		do_copies();
#ifdef __x86_64__
	if (count_of("compat_read") || count_of("compat_write") || count_of("compat_open") ||
	    count_of("compat_close_range") || count_of("compat_copy"))
		do_compat();
#endif
	return unused;
}

static void on_term(int signal)
{
	stopped = signal;
}

static void *do_storm(void *unused)
{
	struct timespec now, end;
	int zero = open("/dev/zero", O_RDONLY);
	long reads = 0;
	char byte;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += count_of("storm");
	do {
		for (int i = 0; i < 1000; i++, reads++)
			RETURNS(1, read(zero, &byte, 1));
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (!stopped && (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec)));
	__sync_fetch_and_add(&storm_reads, reads);
	return unused;
}

static void pin_to_cpu(void)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(sched_getcpu(), &cpus);
	check(!sched_setaffinity(0, sizeof(cpus), &cpus), "sched_setaffinity");
}

int main(int argc, char **argv)
{
	long workers, children, running = 0;
	pthread_t threads[256];

	check(argc >= 2, "workload DIR KEY=COUNT ...");
	dir = argv[1];
	plan = argv + 2;
	/* Otherwise malloc() in many threads reads the number of CPUs from a file, once or, in a race, twice. */
	check(mallopt(M_ARENA_MAX, 1), "mallopt");
	signal(SIGTERM, on_term);
	if (count_of("pinned"))
		pin_to_cpu();
	workers = count_of("workers");
	children = count_of("children");
	for (long i = 0; i < workers; i++)
		check(!pthread_create(&threads[i], 0, count_of("storm") ? do_storm : do_plan, 0), "pthread_create");
	for (long i = 0; i < workers; i++)
		pthread_join(threads[i], 0);
	for (; children > 0; children--) {
		pid_t child = fork();

		check(child >= 0, "fork");
		if (!child) {
			do_plan(0);
			_exit(0);
		}
		if (++running >= 16) {
			check(wait(0) > 0, "wait");
			running--;
		}
	}
	while (running-- > 0)
		check(wait(0) > 0, "wait");
	if (count_of("storm"))
		dprintf(1, "%ld\n", storm_reads);
	else if (!workers && !count_of("children"))
		do_plan(0);
	return 0;
}
