"""Write the log of a training run, and read a timeline from the log."""
