"""Activation patching: measure which clean activations restore the clean prediction in a corrupted run."""
