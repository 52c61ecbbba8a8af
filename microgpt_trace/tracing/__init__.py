"""What a run shows: a Trace as data, and what makes one."""
