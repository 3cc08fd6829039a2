"""The sinks that come with ebpfmon, registered as a third party's would be."""
