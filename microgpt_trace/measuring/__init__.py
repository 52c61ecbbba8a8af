"""Meters of the values that a model computes: channels, residual streams, heads, predictions and norms."""
