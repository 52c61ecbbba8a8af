"""Turn values, names and command lines into text."""
