/* SPDX-License-Identifier: Apache-2.0 */
/* calls KIND COUNT BATCHES
 *
 * Make BATCHES batches of COUNT system calls, and print the CPU nanoseconds of one call: the first decile of the
 * batches, and their median. KIND is read, write, getppid, open (and close), fork, or tcp or udp (send a byte over
 * loopback and receive it). The minimum is not used, because the clock of a virtual machine can make single batches
 * too short. */
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

static int in, out, sockets[2];
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
	if (send(sockets[0], &byte, 1, 0) != 1 || recv(sockets[1], &byte, 1, 0) != 1)
		abort();
}

/* Create two sockets that are connected to each other. Return a negative number on failure. */
static int connect_sockets(int type)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(address);
	int listener = socket(AF_INET, type, 0);

	sockets[0] = socket(AF_INET, type, 0);
	if (bind(listener, (void *)&address, size) || getsockname(listener, (void *)&address, &size))
		return -1;
	if ((type == SOCK_STREAM && listen(listener, 1)) || connect(sockets[0], (void *)&address, size))
		return -1;
	if (type == SOCK_STREAM)
		return sockets[1] = accept(listener, 0, 0);
	sockets[1] = listener;
	return getsockname(sockets[0], (void *)&address, &size) || connect(listener, (void *)&address, size) ? -1 : 0;
}

static const struct {
	const char *name;
	void (*call)(void);
	int socket_type;
} kinds[] = {
	{ "read", one_read }, { "write", one_write }, { "getppid", one_getppid }, { "open", one_open }, { "fork", one_fork },
	{ "tcp", one_transfer, SOCK_STREAM }, { "udp", one_transfer, SOCK_DGRAM },
};

/* Return the CPU time of this process and of its children that have ended, because a fork costs the child time, too. */
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
	double *ns_per_call;

	for (int k = 0; argc == 4 && k < (int)(sizeof(kinds) / sizeof(*kinds)); k++)
		if (!strcmp(argv[1], kinds[k].name))
			kind = k;
	if (kind < 0 || (count = atoi(argv[2])) < 1 || (batches = atoi(argv[3])) < 1)
		return fprintf(stderr, "calls read|write|getppid|open|fork|tcp|udp COUNT BATCHES\n"), 2;
	in = open("/dev/zero", O_RDONLY);
	out = open("/dev/null", O_WRONLY);
	ns_per_call = calloc(batches, sizeof(*ns_per_call));
	if (in < 0 || out < 0 || !ns_per_call || (kinds[kind].socket_type && connect_sockets(kinds[kind].socket_type) < 0))
		return perror("calls"), 1;
	for (int n = -1; n < batches; n++) { /* Batch -1 warms up the caches. */
		double start = cpu_ns();

		for (int i = 0; i < count; i++)
			kinds[kind].call();
		if (n >= 0)
			ns_per_call[n] = (cpu_ns() - start) / count;
	}
	qsort(ns_per_call, batches, sizeof(*ns_per_call), ascending);
	printf("%.2f %.2f\n", ns_per_call[batches / 10], ns_per_call[batches / 2]);
	return 0;
}
