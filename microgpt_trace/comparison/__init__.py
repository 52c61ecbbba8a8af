"""Compare two runs or two models: how much they differ, and where they first diverge."""
