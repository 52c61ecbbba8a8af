"""Memory of a survey does not grow with the corpus."""

import tracemalloc

import pytest

from microgpt_trace import init, survey
from microgpt_trace.microgpt.documents import default_data


def peak(limit):
    tracemalloc.start()
    survey(init(), str(default_data()), limit=limit, top=5, histograms=["layer0.mlp.*"])
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


@pytest.mark.sweep
def test_four_times_as_many_texts_take_as_much():
    peak(100)  # what is made once
    few, many = peak(4_000), peak(16_000)
    print(few, many)
    assert many < 1.15 * few
