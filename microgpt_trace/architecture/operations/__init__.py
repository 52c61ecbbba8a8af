"""The arithmetic of each kind of operation, one module a kind: all that is known of it stands side by side.

`forward` runs a row in the dtype of its inputs, `backward` gives d loss / d these from d loss / d the output.
`formula`, `gradient_formula` and `parameter_formula` say the same of each element, as data.
Shape letters are those of microgpt/operations.py, and: n sequences of a pass, G key-value heads, S positions
seen (those before and T new ones).

The float64 reference of a kind never calls the kernel that it judges. No
kind knows a mistake: a row of a faulty plan says what computes it otherwise.
"""
