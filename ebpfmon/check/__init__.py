"""`ebpfmon check`: report what this kernel allows and how each event is attached."""
