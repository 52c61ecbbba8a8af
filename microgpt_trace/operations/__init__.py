"""The arithmetic of each kind of operation, one module per kind.

`forward` runs a row in the dtype of its inputs. `backward` computes the gradients of the inputs and
parameters from the gradient of the output. `formula`, `gradient_formula` and `parameter_formula` describe
each element as data. microgpt/operations.py explains the letters in shapes. In shapes, n means the sequences
of a pass, G the key-value heads, and S the cached and new positions.

The float64 `reference` of a kind calls no kernel of `forward`. These modules contain no simulated faults. The
plan of a simulated fault contains the faulty computation.
"""
