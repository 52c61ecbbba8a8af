"""Production models. The weights stay in the model file. This package depends on no file format."""
