"""Mergeable meters of what passes through a model: channels, streams, heads, predictions, norms."""
