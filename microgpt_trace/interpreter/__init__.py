"""The interpreter: runs the rows of any plan, forward and backward."""
