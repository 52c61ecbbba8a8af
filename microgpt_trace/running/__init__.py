"""Runs a model on what it reads: the inputs, and passes that others look on."""
