// SPDX-License-Identifier: GPL-2.0-only
/* What processes do on TCP and UDP sockets, and with whom. */
#include "network_transfers.bpf.h"
#include "network_connections.bpf.h"

LICENSE("GPL");
