"""Formulas as data: how an element is computed and written out. This package depends on no kind of
operation."""
