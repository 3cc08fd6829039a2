"""Find out what this kernel allows, for `ebpfmon check`."""
