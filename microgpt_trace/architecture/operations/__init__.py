"""The arithmetic of each kind of operation, one module per kind.

`forward` runs a row in the dtype of its inputs. `backward` takes d loss / d output and returns d loss / d
each input and parameter. `formula`, `gradient_formula` and `parameter_formula` describe each element as
data. Shape letters are those of microgpt/operations.py, and: n sequences of a pass, G key-value heads, S
positions seen (earlier ones and T new ones).

The float64 `reference` of a kind calls none of the kernels that it judges. No kind knows a fault: a row of a
faulty plan brings its own computation.
"""
