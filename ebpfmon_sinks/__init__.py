"""The sinks that come with ebpfmon, registered as a stranger's would be."""
