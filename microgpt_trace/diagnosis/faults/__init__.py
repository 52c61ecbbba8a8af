"""The mistakes that are tried on a wrong operation, each as a changed plan: one module for each part of a
model."""
