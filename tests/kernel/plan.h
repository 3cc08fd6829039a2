/* SPDX-License-Identifier: Apache-2.0 */
/* The plan of a program: its arguments KEY=COUNT say how often it does each thing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char **plan;

#define TIMES(key) for (long left = count_of(key); left > 0; left--)

static long count_of(const char *key)
{
	for (char **arg = plan; *arg; arg++)
		if (!strncmp(*arg, key, strlen(key)) && (*arg)[strlen(key)] == '=')
			return atol(*arg + strlen(key) + 1);
	return 0;
}

static void check(int ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	_exit(1);
}
