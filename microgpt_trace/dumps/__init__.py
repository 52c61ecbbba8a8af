"""Read and write dumps: tensors that other engines or other runs saved."""
