"""The log of a training run, and the timeline that is read from it."""
