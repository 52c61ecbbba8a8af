"""How values, names and command lines are written, on a line and in a sentence. Knows no terminal."""
