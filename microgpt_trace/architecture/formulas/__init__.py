"""Formulas as data: how an element is computed and written out. Knows no kind of operation."""
