"""Read model files: their config, tensors and vocabulary."""
