"""What a model is to the rest of the program, and what its events are made of. Computes none."""
