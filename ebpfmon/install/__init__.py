"""`ebpfmon install`: the systemd unit, the first settings file, and what other programs need."""
