"""The mistakes that are tried on a wrong operation, each a changed plan: one module a part of the model."""
