"""Changes of the events of a run."""
