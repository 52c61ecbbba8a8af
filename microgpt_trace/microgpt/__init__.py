"""microGPT: parameters, passes by hand, training. Knows no other model."""
