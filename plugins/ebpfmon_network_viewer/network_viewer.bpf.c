// SPDX-License-Identifier: GPL-2.0-only
/* What processes do on TCP and UDP sockets, and with whom: a header for each topic, with its handlers and its programs.
 * events.py says in which order the programs of an event are tried. */
#include "sockets.h"		/* whose a socket is, and its ends */
#include "processes.h"		/* counting by process */
#include "destinations.h"	/* counting by destination */
#include "datagrams.h"		/* to and from whom, on sockets without a peer */
#include "transfers.h"		/* sends and receives */
#include "connections.h"	/* connect, listen, accept, close */
#include "retransmissions.h"	/* what the kernel sends again */

char LICENSE[] SEC("license") = "GPL";
