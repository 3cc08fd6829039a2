"""The Netdata sink. This file imports nothing, because Netdata's plugin imports `relay` without the rest of ebpfmon."""
