"""Prints sections on a terminal."""
