"""Formulas as data: how an element is written out. Knows no kind."""
