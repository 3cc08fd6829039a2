/* SPDX-License-Identifier: Apache-2.0 */
/* processes idle COUNT            run COUNT processes that do nothing
 * processes active COUNT CALLS    run COUNT processes that make CALLS reads and CALLS writes per second each
 * processes short COUNT MS CALLS  run COUNT processes, 16 at a time, that make CALLS reads each within MS milliseconds
 *
 * Print "ready" when the processes are running. With `idle` and `active` they end with this process. With `short` this
 * process ends with the last of them, and prints the number of reads that they made. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_RUNNING 16
static int zero, null;

static void wait_ns(long ns)
{
	struct timespec left = { ns / 1000000000, ns % 1000000000 };

	while (nanosleep(&left, &left))
		;
}

static void active(int n, int count, int calls)
{
	struct timespec next;
	char byte;

	clock_gettime(CLOCK_MONOTONIC, &next);
	next.tv_nsec = 1000000000L / count * n; /* Spread the processes over the second. */
	for (;;) {
		next.tv_sec++;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, 0);
		for (int i = 0; i < calls; i++)
			if (read(zero, &byte, 1) != 1 || write(null, &byte, 1) != 1)
				_exit(1);
	}
}

static void short_lived(long ms, int calls)
{
	char byte;

	for (int i = 0; i < calls; i++) {
		if (read(zero, &byte, 1) != 1)
			_exit(1);
		wait_ns(ms * 1000000 / calls);
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	struct rlimit limit;
	int count = argc > 2 ? atoi(argv[2]) : 0, running = 0;
	int is_idle = argc == 3 && !strcmp(argv[1], "idle"), is_active = argc == 4 && !strcmp(argv[1], "active");
	int is_short = argc == 5 && !strcmp(argv[1], "short");

	if (count < 0 || !(is_idle || is_active || is_short))
		return fprintf(stderr, "processes idle COUNT | active COUNT CALLS | short COUNT MS CALLS\n"), 2;

	getrlimit(RLIMIT_NPROC, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NPROC, &limit);
	zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (is_short)
		printf("ready\n"), fflush(stdout);
	for (int n = 0; n < count; n++) {
		pid_t child = fork();

		if (child < 0)
			return perror("fork"), kill(0, SIGTERM), 1;
		if (!child) {
			/* Only the children have this name, because this process made reads as well, when it was executed. */
			prctl(PR_SET_NAME, "bench-load");
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (is_short)
				short_lived(atol(argv[3]), atoi(argv[4]));
			if (is_active)
				active(n, count, atoi(argv[3]));
			for (;;)
				pause();
		}
		if (is_short && ++running == MAX_RUNNING)
			wait(0), running--;
	}
	while (is_short && wait(0) > 0)
		;
	if (is_short)
		return printf("%ld\n", (long)count * atol(argv[4])), 0;
	printf("ready\n"), fflush(stdout);
	for (;;)
		pause();
}
