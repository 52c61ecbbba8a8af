"""Comparing the weights of two models: the relation of two parameters, and what stored types round."""
