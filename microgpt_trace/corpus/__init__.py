"""Documents from files, one after another, whatever holds them. Knows no model and no NumPy."""
