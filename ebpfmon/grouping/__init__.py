"""Who made a call: names of applications and cgroups from facts about a process. No I/O but reading the groups file."""
