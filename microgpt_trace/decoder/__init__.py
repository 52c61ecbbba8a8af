"""Production models whose weights stay in their file. This package depends on no file format."""
