"""Vocabularies of model files: text to token ids and back."""
