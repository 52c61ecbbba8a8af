"""Formulas as data, and the written-out computation of an element, for any kind of operation."""
