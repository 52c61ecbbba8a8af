"""Print sections on a terminal."""
