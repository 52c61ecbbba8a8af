"""Plans: kinds of operations, rows, the architectures and the words for their events."""
