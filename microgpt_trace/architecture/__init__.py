"""The computation of models: plans, kinds of operations, formulas and the interpreter. Knows no file."""
