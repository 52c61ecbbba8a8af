"""Llama and Qwen2-class models whose weights stay in their file. Knows no file format."""
