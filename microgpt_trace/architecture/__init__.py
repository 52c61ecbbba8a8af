"""The computation of models: plans, kinds of operations, formulas and the interpreter. This package reads and
writes no file."""
