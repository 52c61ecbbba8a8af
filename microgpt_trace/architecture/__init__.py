"""The computation of models: plans, kinds of operations, formulas and the interpreter. Reads no file."""
