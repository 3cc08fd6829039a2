/* SPDX-License-Identifier: Apache-2.0 */
/* Follow the arguments in their order: make calls, and change the process between them.
 *	read=N		read one byte N times
 *	name=NAME	take another name
 *	uid=N, euid=N	take another real or effective user
 *	cgroup=FILE	move to another cgroup, by writing to its cgroup.procs
 *	thread=N	read one byte N times in a thread with a name of its own
 *	threads=N	make N threads with a name of their own, which all exit when the last one has been made */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static int zero;

static void read_times(int times)
{
	char byte;

	while (times--)
		if (read(zero, &byte, 1) != 1)
			err(1, "read");
}

static void *in_thread(void *times)
{
	prctl(PR_SET_NAME, "a-thread");
	read_times((long)times);
	return 0;
}

static pthread_barrier_t all_made;

static void *until_all_made(void *unused)
{
	prctl(PR_SET_NAME, "a-thread");
	pthread_barrier_wait(&all_made);
	return unused;
}

static void make_threads(int number)
{
	pthread_t *threads = calloc(number, sizeof(*threads));
	pthread_attr_t small;

	if (!threads || pthread_barrier_init(&all_made, 0, number) || pthread_attr_init(&small) ||
	    pthread_attr_setstacksize(&small, 1 << 15))
		errx(1, "cannot prepare %d threads", number);
	for (int n = 0; n < number; n++)
		if (pthread_create(threads + n, &small, until_all_made, 0))
			errx(3, "cannot make %d threads", number);
	for (int n = 0; n < number; n++)
		pthread_join(threads[n], 0);
}

static void move(const char *file)
{
	int fd = open(file, O_WRONLY);

	if (fd < 0 || write(fd, "0", 1) != 1)
		err(1, "%s", file);
	close(fd);
}

int main(int count, char **arguments)
{
	pthread_t thread;

	zero = open("/dev/zero", O_RDONLY);
	for (int n = 1; n < count; n++) {
		char *value = strchr(arguments[n], '=');

		if (!value)
			errx(2, "%s: no value", arguments[n]);
		*value++ = 0;
		if (!strcmp(arguments[n], "read"))
			read_times(atoi(value));
		else if (!strcmp(arguments[n], "name"))
			prctl(PR_SET_NAME, value);
		else if (!strcmp(arguments[n], "cgroup"))
			move(value);
		else if (!strcmp(arguments[n], "uid")) {
			if (setresuid(atoi(value), -1, -1))
				err(1, "setresuid");
		} else if (!strcmp(arguments[n], "euid")) {
			if (seteuid(atoi(value)))
				err(1, "seteuid");
		} else if (!strcmp(arguments[n], "thread")) {
			if (pthread_create(&thread, 0, in_thread, (void *)atol(value)) || pthread_join(thread, 0))
				errx(1, "pthread_create");
		} else if (!strcmp(arguments[n], "threads")) {
			make_threads(atoi(value));
		} else {
			errx(2, "%s: unknown", arguments[n]);
		}
	}
	return 0;
}
