"""What every model can do, whatever its kind, and the texts of a pass."""
