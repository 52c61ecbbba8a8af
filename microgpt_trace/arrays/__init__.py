"""Arithmetic on arrays."""
