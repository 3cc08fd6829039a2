/* SPDX-License-Identifier: Apache-2.0 */
/* processes idle COUNT            that many processes that do nothing, until this one ends
 * processes active COUNT CALLS    ... that make so many reads and writes a second each
 * processes lives COUNT MS CALLS  ... that come one after the other, make so many reads each, and live so long
 * Says "ready" when they are there; `lives` ends when its processes have, and prints how many reads were made. */
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

#define AT_ONCE 16
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
	next.tv_nsec = 1000000000L / count * n; /* not all at once */
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
	struct rlimit most;
	int count = argc > 2 ? atoi(argv[2]) : 0, living = 0;
	int is_idle = argc == 3 && !strcmp(argv[1], "idle"), is_active = argc == 4 && !strcmp(argv[1], "active");
	int lives = argc == 5 && !strcmp(argv[1], "lives");

	if (count < 0 || !(is_idle || is_active || lives))
		return fprintf(stderr, "processes idle COUNT | active COUNT CALLS | lives COUNT MS CALLS\n"), 2;

	getrlimit(RLIMIT_NPROC, &most);
	most.rlim_cur = most.rlim_max;
	setrlimit(RLIMIT_NPROC, &most);
	zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (lives)
		printf("ready\n"), fflush(stdout);
	for (int n = 0; n < count; n++) {
		pid_t child = fork();

		if (child < 0)
			return perror("fork"), kill(0, SIGTERM), 1;
		if (!child) {
			prctl(PR_SET_NAME, "bench-load"); /* the children's alone: exec itself has read */
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (lives)
				short_lived(atol(argv[3]), atoi(argv[4]));
			if (is_active)
				active(n, count, atoi(argv[3]));
			for (;;)
				pause();
		}
		if (lives && ++living == AT_ONCE)
			wait(0), living--;
	}
	while (lives && wait(0) > 0)
		;
	if (lives)
		return printf("%ld\n", (long)count * atol(argv[4])), 0;
	printf("ready\n"), fflush(stdout);
	for (;;)
		pause();
}
