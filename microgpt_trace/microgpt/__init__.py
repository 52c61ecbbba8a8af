"""microGPT: parameters, hand-written passes, training. Knows no other model."""
