"""The log of a training run, and the curves that are read from it."""
