"""The events that a model emits while it runs, the bus that delivers them, and their replacements."""
