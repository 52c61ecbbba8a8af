"""The events, parts, positions and tokens that a user names."""
