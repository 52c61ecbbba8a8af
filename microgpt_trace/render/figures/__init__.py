"""Figures: a result as a picture to be, drawn on Axes of matplotlib or into a file. Computes nothing anew."""
