"""Sections on a terminal. Knows not what they mean."""
