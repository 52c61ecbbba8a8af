"""Dumps: tensors saved by other engines or other runs, with the names and shapes of our events."""
