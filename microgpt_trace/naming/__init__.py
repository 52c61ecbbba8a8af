"""The names of events in other engines, the maps that users write, and suggestions for unknown names."""
