"""Possible mistakes that explain a wrong operation. Each module lists the mistakes in one part of a model."""
