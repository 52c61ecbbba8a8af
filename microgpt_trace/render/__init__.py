"""Describe results as sections, which people read, and as documents, which programs read."""
