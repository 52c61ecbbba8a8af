"""Values, names and command lines as text, on a line and in a sentence. Knows nothing of terminals."""
