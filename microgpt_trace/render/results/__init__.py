"""Describe every class of result except Trace as sections."""
