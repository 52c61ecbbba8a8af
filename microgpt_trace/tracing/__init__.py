"""The trace of a run: its data, and the functions that make it."""
