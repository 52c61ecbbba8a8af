"""Formulas as data: how an element is written out and evaluated. Knows no kind."""
