"""Vocabularies: what a model file says of its tokens, text -> ids and back."""
