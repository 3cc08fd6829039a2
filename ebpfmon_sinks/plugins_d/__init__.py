"""The Netdata sink. This file imports nothing, because the relay runs without the rest of ebpfmon."""
