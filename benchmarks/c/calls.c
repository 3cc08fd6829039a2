/* SPDX-License-Identifier: Apache-2.0 */
/* calls KIND COUNT BATCHES: makes system calls, and prints what one took: nanoseconds of a batch than which a tenth were
 * faster, then of the median one, of CPU time. KIND: read, write, getppid, open (and close), fork, tcp
 * and udp (a byte sent and received, over loopback).
 * The fastest of many may be one that a virtual machine's clock, which leaves out what its host took, made too short. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int in, out, pair[2]; /* of sockets */
static char byte;

static void one_read(void) { if (read(in, &byte, 1) != 1) abort(); }
static void one_write(void) { if (write(out, &byte, 1) != 1) abort(); }
static void one_getppid(void) { syscall(SYS_getppid); }

static void one_open(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		abort();
	close(fd);
}

static void one_fork(void)
{
	pid_t child = fork();

	if (!child)
		_exit(0);
	if (child < 0 || waitpid(child, 0, 0) != child)
		abort();
}

static void one_transfer(void)
{
	if (send(pair[0], &byte, 1, 0) != 1 || recv(pair[1], &byte, 1, 0) != 1)
		abort();
}

/* Two sockets that are connected to each other. */
static int connected(int type)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(at);
	int listener = socket(AF_INET, type, 0);

	pair[0] = socket(AF_INET, type, 0);
	if (bind(listener, (void *)&at, size) || getsockname(listener, (void *)&at, &size))
		return -1;
	if ((type == SOCK_STREAM && listen(listener, 1)) || connect(pair[0], (void *)&at, size))
		return -1;
	if (type == SOCK_STREAM)
		return pair[1] = accept(listener, 0, 0);
	pair[1] = listener;
	return getsockname(pair[0], (void *)&at, &size) || connect(listener, (void *)&at, size) ? -1 : 0;
}

static const struct {
	const char *name;
	void (*call)(void);
	int type; /* of its sockets */
} kinds[] = {
	{ "read", one_read }, { "write", one_write }, { "getppid", one_getppid }, { "open", one_open }, { "fork", one_fork },
	{ "tcp", one_transfer, SOCK_STREAM }, { "udp", one_transfer, SOCK_DGRAM },
};

/* CPU time of this process, and of its children that have ended: a fork's cost is the child's, too. */
static double cpu_ns(void)
{
	struct timespec own;
	struct rusage children;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
	getrusage(RUSAGE_CHILDREN, &children);
	return own.tv_sec * 1e9 + own.tv_nsec + 1e9 * (children.ru_utime.tv_sec + children.ru_stime.tv_sec) +
	       1e3 * (children.ru_utime.tv_usec + children.ru_stime.tv_usec);
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	int kind = -1, count, batches;
	double *took;

	for (int k = 0; argc == 4 && k < (int)(sizeof(kinds) / sizeof(*kinds)); k++)
		if (!strcmp(argv[1], kinds[k].name))
			kind = k;
	if (kind < 0 || (count = atoi(argv[2])) < 1 || (batches = atoi(argv[3])) < 1)
		return fprintf(stderr, "calls read|write|getppid|open|fork|tcp|udp COUNT BATCHES\n"), 2;
	in = open("/dev/zero", O_RDONLY);
	out = open("/dev/null", O_WRONLY);
	took = calloc(batches, sizeof(*took));
	if (in < 0 || out < 0 || !took || (kinds[kind].type && connected(kinds[kind].type) < 0))
		return perror("calls"), 1;
	for (int n = -1; n < batches; n++) { /* one batch to get warm */
		double start = cpu_ns();

		for (int i = 0; i < count; i++)
			kinds[kind].call();
		if (n >= 0)
			took[n] = (cpu_ns() - start) / count;
	}
	qsort(took, batches, sizeof(*took), ascending);
	printf("%.2f %.2f\n", took[batches / 10], took[batches / 2]);
	return 0;
}
