"""Formulas as data: how an element is computed and written out. Depends on no kind of operation."""
