// SPDX-License-Identifier: GPL-2.0-only
/* Counts what processes do on TCP and UDP sockets, and who their peers are. Each topic has a header with its handlers and
 * programs. events.py lists the programs of each event in the order in which they are tried. */
#include "sockets.h"		/* endpoints, owner and direction of a socket */
#include "calls.h"		/* the current system call */
#include "processes.h"		/* counting by process */
#include "destinations.h"	/* counting by destination */
#include "datagrams.h"		/* peers of datagrams on unconnected sockets */
#include "transfers.h"		/* sends and receives */
#include "connections.h"	/* connect, listen, accept, close */
#include "exits.h"		/* the exit of system calls */
#include "retransmissions.h"	/* segments that the kernel sends again */

char LICENSE[] SEC("license") = "GPL";
