"""Activation patching: which clean activations bring a corrupted run back."""
