"""Model files: bytes -> config, named tensors and vocabulary."""
