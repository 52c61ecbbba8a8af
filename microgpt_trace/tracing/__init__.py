"""The trace of a run: the trace's data, and the functions that trace a model."""
