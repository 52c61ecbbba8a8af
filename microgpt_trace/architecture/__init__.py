"""How models compute: plans, kinds of operations, formulas and the interpreter. Knows no file."""
