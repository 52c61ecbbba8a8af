"""The mistakes that are tried on a wrong operation. Each part of a model has a module of mistakes."""
