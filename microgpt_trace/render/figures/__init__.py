"""Figures of results, plotted on matplotlib Axes or saved as files. Computes no new numbers."""
