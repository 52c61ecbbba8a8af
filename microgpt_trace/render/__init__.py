"""Describe results as sections for people and as JSON documents for programs."""
