"""Find the group that a process belongs to: its application, program, user or container."""
