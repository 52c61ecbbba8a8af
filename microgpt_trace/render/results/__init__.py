"""All results other than a Trace as sections, a module for each command."""
