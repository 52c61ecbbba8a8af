"""Results as sections, which are shown, and as documents, which programs read."""
