"""Mergeable meters of the values of a model: channels, streams, heads, predictions, norms."""
