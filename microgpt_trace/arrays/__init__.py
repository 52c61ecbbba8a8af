"""Arithmetic on arrays. Knows no model."""
