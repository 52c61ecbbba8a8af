"""What a model's values are like over a corpus."""
