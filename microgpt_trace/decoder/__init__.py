"""Production models whose weights stay in their file. Knows no file format."""
