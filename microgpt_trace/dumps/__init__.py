"""What other runs and other engines left of their tensors: read, named, laid out as our events."""
