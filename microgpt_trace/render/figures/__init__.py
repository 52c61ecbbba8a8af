"""Figures of results, plotted on matplotlib Axes or saved as files."""
