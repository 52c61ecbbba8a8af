"""Plans: kinds of operations, rows, architectures, and descriptions of events."""
