"""microGPT: its parameters, its hand-written forward and backward passes, and its training."""
