"""Print sections on a terminal. Knows nothing of what they mean."""
