"""The arithmetic of each kind of operation, one module per kind.

`forward` runs a row in the dtype of its inputs. `backward` computes the gradients of the inputs and
parameters from the gradient of the output. `formula`, `gradient_formula` and `parameter_formula` describe
each element as data. microgpt/operations.py explains the letters in shapes. Three more letters are used here:
n sequences of a pass, G key-value heads, S positions with a key (cached positions and T new positions).

The float64 `reference` of a kind calls none of the kernels that it judges. Kinds compute without faults. The
plan of a fault contains the faulty computation.
"""
