"""Vocabularies: what a model file says of its tokens, text -> ids and back."""

from .apr import from_apr
from .gguf import from_gguf
from .huggingface import from_huggingface
from .tokens import Vocabulary

__all__ = ["Vocabulary", "from_apr", "from_gguf", "from_huggingface"]
